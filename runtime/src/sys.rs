//! System calls that no safe wrapper covers, and the two places where processes are born.
//!
//! All `unsafe` of this crate is below this module.
#![allow(
    unsafe_code,
    reason = "system calls and process creation; each block argues its safety"
)]

mod birth;
mod calls;
mod clone;
mod init;

pub(crate) use birth::{Birth, spawn_spawner};
pub(crate) use calls::{
    Instruction, children_cpu_time, close_on_exec_from, enable_extended_acks, execute, exit_now,
    install_seccomp, is_known, join_new_session_keyring, mount_setattr, reset_signals, send_signal,
    try_in_child, unshare, unshare_file_system,
};
pub(crate) use clone::{CloneFlags, Cloned, clone_process};
pub(crate) use init::{be_init, block_signals, restore_signals};
