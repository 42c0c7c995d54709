//! Dockerfile → stage graph → op graph → parallel execution → outputs.

pub mod event;
pub mod image;
pub mod output;
pub mod request;
