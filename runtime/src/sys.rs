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
mod notify;
mod packet;

pub(crate) use birth::{Birth, execute_read_only, spawn_spawner};
pub(crate) use calls::{
    Filter, Instruction, children_cpu_time, close_on_exec_from, die_with_parent,
    enable_extended_acks, execute, exit_now, install_seccomp, is_known, join_new_session_keyring,
    mount_namespace_of, mount_setattr, reset_signals, send_signal, try_in_child, unshare,
    unshare_file_system, wait_and_end_alike,
};
pub(crate) use clone::{CloneFlags, Cloned, clone_process};
pub(crate) use init::{
    be_init, be_supervisor, block_signals, block_termination, child_signals, ended_child,
    kill_children, restore_signals, unblock_signals, wait_for_termination,
};
pub(crate) use notify::{
    Notification, answer_fast, install_listener, is_still_asking, next_notification, read_memory,
    read_text, send_answer, write_memory,
};
pub(crate) use packet::packet_socket;
