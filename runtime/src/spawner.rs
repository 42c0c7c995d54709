//! The spawner process: clones sandbox children, reaps them, reports their end.
//!
//! It has one thread, holds no lock and does nothing that blocks: whatever may take long (mounts,
//! network) happens in the sandbox children. It is process 1 of a pid namespace of its own, so the
//! kernel kills every sandbox when it ends, however it ends.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::RecvFlags;
use rustix::process::{
    DumpableBehavior, Pid, WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper,
    set_dumpable_behavior, waitid, waitpid,
};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::Cgroup;
use crate::child;
use crate::isolation::{self, isolation};
use crate::net::{self, FRESH, Lent, Outlet, Router, Spare, Spares};
use crate::running::pid_of;
use crate::spec::{Frame, Joining, Network, Sandbox};
use crate::sys::{self, Birth, Cloned};
use crate::userns::in_user_namespace;
use crate::wire::{self, Exit, Failure, Hello, InStep as _, Ready, Request, Setup, Status, Step};

/// A sandbox as the spawner sees it.
struct Child {
    pid: i32,
    pidfd: OwnedFd,
    status: OwnedFd,
    cgroup: Option<Cgroup>,
    /// What the last of its processes would wait for to be taken apart at its end.
    mounts: Option<OwnedFd>,
    /// Where its request came from, if it was made ahead. To close that while something of the other side is
    /// unread would break it before the request was read.
    requests: Option<OwnedFd>,
    /// A network that may be used again.
    network: Option<Lent>,
}

impl Child {
    fn new(pid: i32, pidfd: OwnedFd, status: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            status,
            cgroup: None,
            mounts: None,
            requests: None,
            network: None,
        }
    }

    /// The network that it leaves, if that may be used again.
    fn take_network(&mut self) -> Option<Spare> {
        match self.network.take()? {
            Lent::New(made) => Spare::receive(self.requests.as_ref()?.as_fd(), made),
            Lent::Again(spare) => Some(spare),
        }
    }

    /// Keeps its mounts until somebody has the time to let go of them, where the kernel has a way to.
    fn keep_mounts(mut self) -> Self {
        self.mounts = sys::mount_namespace_of(self.pidfd.as_fd()).ok();
        self
    }
}

/// A sandbox that is half made, and waits for its root and its command.
///
/// It is used once, as every other, and knows nothing of those before it.
struct Ahead {
    pid: i32,
    pidfd: OwnedFd,
    /// Where it waits for the request, and tells of its network.
    requests: OwnedFd,
    /// The network, if others had it before.
    network: Option<Spare>,
    frame: Frame,
    made: Instant,
}

impl Ahead {
    /// Kills it. It remains to be reaped.
    fn give_up(self) -> i32 {
        // An error means that it has ended already.
        let _ = sys::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        self.pid
    }
}

struct Spawner {
    birth: Birth,
    /// Readable when a child has ended, known or not.
    ended: OwnedFd,
    children: Vec<Child>,
    ahead: Option<Ahead>,
    /// Networks for sandboxes that are made ahead.
    spares: Spares,
    /// Control groups that could not be removed yet.
    emptied: Vec<Cgroup>,
    /// For the shared network.
    state_dir: PathBuf,
    /// Our share in it; taken before the first sandbox that needs it.
    membership: Option<net::Membership>,
    /// In a user namespace: the way out of it.
    router: Option<Router>,
    /// What sandboxes leave here stays open until this process ends, since nobody takes it out.
    keep: (OwnedFd, OwnedFd),
}

/// How long networks are kept when the program has gone: a script's next command finds them there.
const KEEP: Duration = Duration::from_millis(100);

/// The whole life of the spawner.
pub(crate) fn run(birth: Birth) {
    let Ok(Some((hello, _))) = wire::hear::<Hello>(&birth.control, RecvFlags::empty()) else {
        return;
    };
    isolation::inherit(hello.isolation);
    let (answer, prepared) = match prepare() {
        Ok(prepared) => (Ready::Yes, Some(prepared)),
        Err(failure) => (Ready::No(failure), None),
    };
    let told = wire::tell(&birth.control, &answer, &[]);
    let (Ok(()), Some((ended, keep))) = (told, prepared) else {
        return;
    };
    let mut spawner = Spawner {
        birth,
        ended,
        children: Vec::new(),
        ahead: None,
        spares: Spares::default(),
        emptied: Vec::new(),
        state_dir: hello.state_dir,
        membership: None,
        router: None,
        keep,
    };
    if let Some(frame) = hello.expected {
        spawner.make_ahead(frame);
    }
    spawner.serve();
    spawner.end();
}

/// Returns what tells that children have ended, and where sandboxes leave what is to be kept.
fn prepare() -> Step<(OwnedFd, (OwnedFd, OwnedFd))> {
    sys::reset_signals();
    let keep = wire::pair().step("make a socket")?;
    let ended = sys::child_signals().step("make a descriptor for the ends of children")?;
    // Answered here once for all sandboxes, which are copies of this process.
    in_user_namespace();
    // Not the caller's: nobody else may write to control groups and to what is kept of networks.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Nobody may look into this process or what it clones: it has seen all environments.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("make the spawner undumpable")?;
    // Holding the program's output open would keep its reader waiting for us.
    let null = rustix::fs::open(
        c"/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step_at("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("replace standard input")?;
    rustix::stdio::dup2_stdout(&null).step("replace standard output")?;
    if !isolation().has_namespaces() {
        // What a killed step leaves behind shall become our child, so that it can be killed.
        set_child_subreaper(Some(getpid())).step("become the parent of orphans")?;
        return Ok((ended, keep));
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("make all mounts private")?;
    Ok((ended, keep))
}

impl Spawner {
    /// Answers requests and reaps children until the program is gone.
    fn serve(&mut self) {
        loop {
            let mut ready: Vec<PollFd<'_>> = [&self.birth.control, &self.birth.parent, &self.ended]
                .into_iter()
                .chain(self.children.iter().map(|child| &child.pidfd))
                .map(|fd| PollFd::new(fd, PollFlags::IN))
                .collect();
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // Out of memory at worst: everything ends, as when the spawner is killed.
                Err(_) => return,
            }
            let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
            for index in (0..self.children.len()).rev() {
                if ready[index + 3] {
                    let mut child = self.children.swap_remove(index);
                    let (pid, network) = (child.pid, child.take_network());
                    self.emptied.extend(reap(child, || self.kill_strays(pid)));
                    self.spares.put(network);
                }
            }
            self.reap_strays();
            if !self.emptied.is_empty() {
                self.emptied = self.emptied.drain(..).filter_map(Cgroup::remove).collect();
            }
            if ready[1] {
                return;
            }
            if ready[0] {
                match Request::receive(self.birth.control.as_fd()) {
                    Ok(Some(request)) => {
                        let next = self.begin(&request);
                        // Its end of the setup socket tells when the command runs.
                        drop(request);
                        if let Some(frame) = next {
                            self.make_ahead(frame);
                        }
                    }
                    Ok(None) => return,
                    // A request that cannot be read has no one to be told of it but by its sockets,
                    // which are closed by now.
                    Err(_) => {}
                }
            }
        }
    }

    /// Reaps children that are not ours: of a waiter that was killed. One of them that stays keeps the pid
    /// namespace of its sandbox from ending.
    fn reap_strays(&self) {
        // How many signals there were does not matter.
        let mut signals = [0; 1024];
        while rustix::io::read(&self.ended, &mut signals).is_ok_and(|count| count == signals.len())
        {
        }
        while let Some(pid) = sys::ended_child(false) {
            if self.children.iter().any(|child| child.pid == pid) {
                // The loop is about to see to it, and looks again then.
                return;
            }
            reap_stray(pid);
        }
    }

    /// Returns what to make ahead.
    fn begin(&mut self, request: &Request) -> Option<Frame> {
        self.try_begin(request).unwrap_or_else(|failure| {
            // The program reads this, or has gone.
            let _ = wire::tell(&request.setup, &Setup::Failed(failure), &[]);
            None
        })
    }

    fn try_begin(&mut self, request: &Request) -> Step<Option<Frame>> {
        if let Some(target) = &request.target {
            return self.join(request, target).map(|()| None);
        }
        let sandbox: Sandbox = serde_json::from_slice(&request.body)
            .map_err(|error| Failure::new("read the request", &error.into()))?;
        let Sandbox {
            network,
            security,
            limits,
            ..
        } = &sandbox;
        let frame = Frame::ahead(network, security, limits, sandbox.shm_size)
            .filter(|frame| *frame == Frame::of(&sandbox));
        let gone_on = match &frame {
            Some(frame) => self.go_on(frame, &sandbox, request)?,
            None => false,
        };
        if !gone_on {
            self.clone_sandbox(&sandbox, request)?;
        }
        Ok(frame.filter(|_| request.followed))
    }

    /// Lets the sandbox that is half made go on, if it is one like this.
    fn go_on(&mut self, frame: &Frame, sandbox: &Sandbox, request: &Request) -> Step<bool> {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.frame == *frame) else {
            return Ok(false);
        };
        let fresh = ahead.made.elapsed() < FRESH;
        if !fresh || request.send(ahead.requests.as_fd()).is_err() {
            ahead.give_up();
            return Ok(false);
        }
        let status = rustix::io::fcntl_dupfd_cloexec(&request.status, 0).step("duplicate")?;
        // An error means that the program has gone, which the loop will notice.
        let _ = wire::tell(&status, &Status::Started, &[ahead.pidfd.as_fd()]);
        let mut child = Child::new(ahead.pid, ahead.pidfd, status).keep_mounts();
        child.requests = Some(ahead.requests);
        if frame.network == Network::Private && Lent::may_come_back(sandbox) {
            let new = Lent::New(ahead.made);
            child.network = Some(ahead.network.map_or(new, Lent::Again));
        }
        self.children.push(child);
        Ok(true)
    }

    /// Begins with a sandbox of which no more is known yet.
    fn make_ahead(&mut self, frame: Frame) {
        if !isolation().has_namespaces() || self.ahead.as_ref().is_some_and(|a| a.frame == frame) {
            return;
        }
        if let Some(other) = self.ahead.take() {
            other.give_up();
        }
        // What is wrong is told when a sandbox is asked for, and this is tried once more.
        if frame.network == Network::Private && self.prepare_network().is_err() {
            return;
        }
        let Ok((ours, its)) = wire::pair() else {
            return;
        };
        let network = match frame.network {
            Network::Private => self.spares.take(),
            _ => None,
        };
        match sys::clone_process(child::namespaces_ahead(&frame)) {
            Ok(Cloned::Child) => {
                drop(ours);
                self.let_go_of_mounts();
                child::run_ahead(&frame, its.as_fd(), &self.outlet(), network.as_ref())
            }
            Ok(Cloned::Parent { pid, pidfd }) => {
                self.ahead = Some(Ahead {
                    pid,
                    pidfd,
                    requests: ours,
                    network,
                    frame,
                    made: Instant::now(),
                });
            }
            Err(_) => {}
        }
    }

    /// In a new child: it has copies of what is kept of other sandboxes, and would be the one to wait.
    fn let_go_of_mounts(&mut self) {
        for child in &mut self.children {
            child.mounts = None;
        }
    }

    fn outlet(&self) -> Outlet<'_> {
        Outlet {
            state_dir: &self.state_dir,
            router: self.router.as_ref(),
            keep: Some(self.keep.0.as_fd()),
        }
    }

    fn clone_sandbox(&mut self, sandbox: &Sandbox, request: &Request) -> Step<()> {
        if matches!(sandbox.network, Network::Private | Network::Attached(_)) {
            self.prepare_network()?;
        }
        let cgroup = if sandbox.limits.is_empty() {
            None
        } else {
            let (cgroup, warnings) = Cgroup::create(&sandbox.limits);
            for warning in warnings {
                let _ = wire::tell(&request.setup, &Setup::Warning(warning), &[]);
            }
            cgroup
        };
        let status = rustix::io::fcntl_dupfd_cloexec(&request.status, 0).step("duplicate")?;
        match sys::clone_process(child::namespaces(sandbox)) {
            Ok(Cloned::Child) => {
                self.let_go_of_mounts();
                child::run(sandbox, request, cgroup.as_ref(), &self.outlet())
            }
            Ok(Cloned::Parent { pid, pidfd }) => {
                // An error means that the program has gone, which the loop will notice.
                let _ = wire::tell(&status, &Status::Started, &[pidfd.as_fd()]);
                let mut child = Child::new(pid, pidfd, status).keep_mounts();
                child.cgroup = cgroup;
                self.children.push(child);
                Ok(())
            }
            Err(error) => {
                self.emptied.extend(cgroup);
                Err(Failure::new("clone the sandbox process", &error))
            }
        }
    }

    /// Makes sure that networks which sandboxes are connected with stay, or that there is a way out.
    fn prepare_network(&mut self) -> Step<()> {
        if in_user_namespace() {
            if self.router.as_ref().is_none_or(Router::is_dead) {
                self.router = None;
                // They led through the one that has died.
                self.spares = Spares::default();
                self.router = Some(Router::start(&self.state_dir)?);
            }
        } else if self.membership.is_none() {
            let directory = self.state_dir.join("network");
            self.membership = Some(net::Membership::join(&directory)?);
        }
        Ok(())
    }

    /// Without pid namespaces: kills what a step has left that was killed with its supervisor.
    fn kill_strays(&self, ended: i32) {
        if isolation().has_namespaces() {
            return;
        }
        let known = self.children.iter().map(|child| child.pid).chain([ended]);
        let known: Vec<i32> = known.collect();
        sys::kill_children(&known);
    }

    /// Starts a process in a sandbox that runs.
    fn join(&mut self, request: &Request, target: &OwnedFd) -> Step<()> {
        if !isolation().has_namespaces() {
            let cannot = io::Error::from_raw_os_error(libc::ENOSYS);
            return Err(Failure::new("join the sandbox", &cannot)
                .because("without namespaces of its own there is nothing to join"));
        }
        let joining: Joining = serde_json::from_slice(&request.body)
            .map_err(|error| Failure::new("read the request", &error.into()))?;
        let pid = pid_of(target);
        let sandbox = self
            .children
            .iter_mut()
            .find(|child| pid_of(&child.pidfd) == pid);
        let Some(sandbox) = sandbox.filter(|_| pid != 0) else {
            let gone = io::Error::from_raw_os_error(libc::ESRCH);
            return Err(Failure::new("join the sandbox", &gone).because("it has ended"));
        };
        // Who joins may have more rights.
        sandbox.network = None;
        let status = rustix::io::fcntl_dupfd_cloexec(&request.status, 0).step("duplicate")?;
        match sys::clone_process(0) {
            Ok(Cloned::Child) => {
                child::join::run(&joining, request, target, sandbox.cgroup.as_ref())
            }
            Ok(Cloned::Parent { pid, pidfd }) => {
                // An error means that the program has gone, which the loop will notice.
                let _ = wire::tell(&status, &Status::Started, &[pidfd.as_fd()]);
                self.children.push(Child::new(pid, pidfd, status));
                Ok(())
            }
            Err(error) => Err(Failure::new("clone a process", &error)),
        }
    }

    /// Kills what runs and leaves the host as it was.
    fn end(mut self) {
        for child in &self.children {
            // An error means that it has ended already.
            let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        }
        if let Some(ahead) = self.ahead.take() {
            let pid = ahead.give_up();
            // Nothing of it is left then.
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
        }
        // In the order in which they end: a sandbox waits for what joined it, which may be a stray now.
        while !self.children.is_empty()
            && let Some(pid) = sys::ended_child(true)
        {
            match self.children.iter().position(|child| child.pid == pid) {
                Some(index) => {
                    let child = self.children.swap_remove(index);
                    self.emptied.extend(reap(child, || {}));
                }
                None => reap_stray(pid),
            }
        }
        if !isolation().has_namespaces() {
            sys::kill_children(&[]);
        }
        let busy: Vec<Cgroup> = self.emptied.drain(..).filter_map(Cgroup::remove).collect();
        let membership = self.membership.take();
        let parted = (membership.is_some() || !busy.is_empty()) && self.part().is_ok();
        Cgroup::remove_soon(busy);
        if let Some(membership) = membership {
            if parted {
                std::thread::sleep(KEEP);
            }
            membership.leave();
        }
        if let Some(router) = self.router.take() {
            router.stop();
            net::sweep(&self.state_dir);
        }
    }
}

impl Spawner {
    /// Lets the program go on: to remove a bridge the kernel waits several times until all processors have
    /// let go of it, which takes tens of milliseconds. Nothing of the caller's is held open for so long.
    ///
    /// Fails where the program has gone already.
    fn part(&self) -> io::Result<()> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty())?;
        rustix::stdio::dup2_stderr(&null)?;
        // Lets go of the copies of all mounts, and of the working directory.
        move_into_thread_name_spaces(self.birth.parent.as_fd(), ThreadNameSpaceType::MOUNT)?;
        wire::tell(&self.birth.control, &Ready::Parted, &[])?;
        rustix::net::shutdown(&self.birth.control, rustix::net::Shutdown::Both)?;
        Ok(())
    }
}

fn reap_stray(pid: i32) {
    // An error means that it is not there any more.
    let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
}

/// Collects an ended child: its pid namespace is empty by then; where it has none, `kill_strays` sees to
/// that. Returns its control group.
fn reap(child: Child, kill_strays: impl FnOnce()) -> Option<Cgroup> {
    kill_strays();
    // Children are reaped one at a time, so the difference is this one's.
    let before = sys::children_cpu_time();
    let found = rustix::io::retry_on_intr(|| {
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    });
    let mut exit = match found {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit {
                code,
                signalled: false,
                out_of_memory: false,
                cpu_ms: 0,
            },
            (None, signal) => Exit {
                code: signal.unwrap_or(libc::SIGKILL),
                signalled: true,
                out_of_memory: false,
                cpu_ms: 0,
            },
        },
        // Cannot be: it is our child and nobody else waits for it. Closing the socket tells.
        Ok(None) | Err(_) => return child.cgroup,
    };
    if let Some(cgroup) = &child.cgroup {
        exit.out_of_memory = cgroup.out_of_memory();
    }
    let cpu = sys::children_cpu_time().saturating_sub(before);
    exit.cpu_ms = u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX);
    let mounts: Vec<_> = child.mounts.iter().map(|mounts| mounts.as_fd()).collect();
    // An error means that the program does not care any more.
    let _ = wire::tell(&child.status, &Status::Exited(exit), &mounts);
    child.cgroup
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new("read the request", &io::Error::from(error))
    }
}
