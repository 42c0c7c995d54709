//! Registries: pull, push, base images, credentials, and registries that misbehave.

mod bases;
mod credentials;
mod faults;
mod interop;
