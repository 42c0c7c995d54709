//! Steps of other platforms, run by an interpreter that the kernel knows (`binfmt_misc`).

use std::fs;
use std::path::PathBuf;

use crate::args;
use crate::support::{TestEnv, needs};

/// `e_machine` of RISC-V.
const RISCV: u16 = 243;

/// A program for RISC-V, as far as the kernel looks at it.
fn riscv_program() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(64, 0);
    header[16..18].copy_from_slice(&2_u16.to_le_bytes());
    header[18..20].copy_from_slice(&RISCV.to_le_bytes());
    header
}

/// An interpreter of RISC-V programs that the kernel knows as long as this lives: busybox, which takes
/// a program's name for that of an applet.
struct Interpreter {
    mount: PathBuf,
    name: String,
}

impl Interpreter {
    fn register(env: &TestEnv) -> Interpreter {
        let mount = env.join("binfmt");
        fs::create_dir(&mount).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("binfmt_misc", &mount, "binfmt_misc", flags, None).unwrap();
        let name = format!("rbuild-test-{}", std::process::id());
        let magic: Vec<String> = riscv_program()[..20]
            .iter()
            .map(|byte| format!("\\x{byte:02x}"))
            .collect();
        let magic = magic.concat();
        let busybox = needs::static_busybox();
        // F: the interpreter is opened now, since it is not in the image.
        let line = format!(":{name}:M::{magic}::{}:F", busybox.display());
        let interpreter = Interpreter { mount, name };
        fs::write(interpreter.mount.join("register"), line).unwrap();
        interpreter
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        let _ = fs::write(self.mount.join(&self.name), "-1");
        let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.mount);
    }
}

#[test]
fn steps_of_another_platform_run_where_the_kernel_knows_an_interpreter() {
    let env = TestEnv::new();
    let root = env.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    for name in ["sh", "cat"] {
        fs::write(root.join("bin").join(name), riscv_program()).unwrap();
        let path = root.join("bin").join(name);
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let archive = env.join("root.tar");
    env.host(needs::program("tar", "tar"))
        .args(args!["-C", root, "-cf", archive, "."])
        .run()
        .ok();
    let platform = "linux/riscv64";
    env.rbuild(args!["import", "--platform", platform, archive, "riscv"])
        .run()
        .ok();
    let text = "FROM riscv\nRUN echo built >/built && cat /built\n";
    let context = env.dockerfile("c", text);
    let build = args![
        "build",
        "--progress",
        "plain",
        "--platform",
        platform,
        "-t",
        "x",
        context
    ];
    let refused = env.rbuild(&build).run().exits(1);
    assert!(
        refused.stderr.contains("is a program for riscv64")
            && refused.stderr.contains("qemu-user-static"),
        "{}",
        refused.stderr
    );
    let interpreter = Interpreter::register(&env);
    env.rbuild(&build).run().ok();
    assert_eq!(env.inspect("x", "{{.Architecture}}"), "riscv64");
    let ran = env.rbuild(["run", "--rm", "x", "cat", "/built"]).run().ok();
    assert_eq!(ran.out(), "built\n");
    drop(interpreter);
}
