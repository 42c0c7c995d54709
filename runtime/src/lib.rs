//! The sandbox: runs one process over a root made of layers, apart from the host.
//!
//! This crate knows no Dockerfile and no image. It gets a [`Sandbox`] (this root, this process,
//! these mounts) and gives back a [`Running`] process whose end means that everything the process
//! had started is gone too.
//!
//! # Processes
//!
//! ```text
//! program ── control socket ──> spawner (pid 1 of its own pid namespace, own mount namespace)
//!    │                             ├── sandbox (pid 1 of its own pid namespace)
//!    └── one channel per sandbox ──┴── sandbox …
//! ```
//!
//! The *spawner* is a small single-threaded process that is started with the first sandbox, never a
//! copy of the large program. It clones each sandbox child, reaps it and reports its end. When the
//! program dies, the spawner sees its sockets close, kills what runs, removes control groups and
//! network, and ends; when the spawner itself is killed the kernel kills all sandboxes, because
//! their pid namespaces are children of the spawner's.
//!
//! The sandbox child sets itself up: it composes the root from detached mounts, enters it, drops
//! its rights and executes the command. Any failure before that travels back as a
//! [`SandboxError::Setup`] which names the step.

mod cgroup;
mod child;
pub mod container;
pub mod emulation;
mod error;
mod freezer;
mod held;
mod isolation;
mod mount;
mod net;
pub mod networks;
mod overlay;
mod processes;
mod running;
mod runtime;
mod seccomp;
mod spawner;
mod spec;
mod sys;
mod upper;
mod usage;
mod userns;
mod wire;

pub mod probe;

pub use error::SandboxError;
pub use freezer::StandStill;
pub use held::{Held, Namespace, Waiting, hold, join_held, leave_writable_program};
pub use isolation::{Ground, Isolation, inherit, isolation, settle, settle_beside};
pub use probe::{Ability, HostReport, probe};
pub use processes::{of_sandbox as processes, signal as signal_process};
pub use running::{Connections, ExitStatus, Running, Stdio};
pub use runtime::{Runtime, RuntimeOptions};
pub use seccomp::{ProfileError, SeccompProfile};
pub use spec::{
    Attached, CapabilitySet, Connected, DeviceSet, Frame, Interface, Joining, KernelSettings, Lan,
    LanKind, Limits, MacvlanMode, Mount, MountSource, NAME_SERVER, Network, OfHost, Owner, Process,
    Rlimit, RlimitKind, RootFs, Sandbox, Seccomp, Security, Subnet, Swap, TmpfsOptions, UpperDir,
    User, is_own_sysctl,
};
pub use upper::overlay_refusal;
pub use usage::Usage;
pub use userns::{has_private_network, in_user_namespace, private_network};
