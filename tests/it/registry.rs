//! Registries: pull, push, base images, credentials, and registries that misbehave.

mod bases;
mod cache;
mod credentials;
mod faults;
mod interop;
mod machine;
mod records;
