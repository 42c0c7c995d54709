//! Options of `docker run` and `podman run` that are refused, with what to do instead.

use crate::failure::status;
use crate::refused::{RefusedList, RefusedOption, flag, value};

/// They are known, so that nobody takes them for mistyped.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunRefused;

const NO_DEVICE_GROUP: &str = "`--device` shows a device; without it none works";
const LIMIT_DISKS: &str = "a control group of your own limits it: name it with `--cgroup-parent`";
const OUTSIDE: &str = "run rbuild as the user whose ids the container is to have";

impl RefusedList for RunRefused {
    const STATUS: u8 = status::ENGINE;
    const OPTIONS: &'static [RefusedOption] = &[
        flag("oom-kill-disable").instead("`--oom-score-adj -1000` keeps it from being chosen"),
        flag("disable-content-trust").harmless(&["true", "false"]),
        flag("use-api-socket").instead("there is no daemon, and so no socket of one"),
        value("memory-swappiness").instead("`--memory-swap` limits how much is swapped"),
        value("kernel-memory").instead("`--memory` counts what the kernel keeps for it, too"),
        value("cpu-rt-period"),
        value("cpu-rt-runtime"),
        value("cpu-count").instead("use `--cpus`"),
        value("cpu-percent").instead("use `--cpus`"),
        value("blkio-weight").instead(LIMIT_DISKS),
        value("blkio-weight-device").instead(LIMIT_DISKS),
        value("device-read-bps").instead(LIMIT_DISKS),
        value("device-read-iops").instead(LIMIT_DISKS),
        value("device-write-bps").instead(LIMIT_DISKS),
        value("device-write-iops").instead(LIMIT_DISKS),
        value("io-maxbandwidth").instead(LIMIT_DISKS),
        value("io-maxiops").instead(LIMIT_DISKS),
        value("cgroupns")
            .harmless(&["", "private"])
            .instead("mount the host's groups: `-v /sys/fs/cgroup:/sys/fs/cgroup:ro`"),
        value("storage-opt").instead("what it writes is limited by the store's file system"),
        value("ip6").instead("networks have IPv4 addresses; `-p [::1]:8080:80` publishes on IPv6"),
        value("link-local-ip"),
        value("userns").harmless(&["", "host"]).instead(OUTSIDE),
        value("uidmap").instead(OUTSIDE),
        value("gidmap").instead(OUTSIDE),
        value("subuidname").instead(OUTSIDE),
        value("subgidname").instead(OUTSIDE),
        value("device-cgroup-rule").instead(NO_DEVICE_GROUP),
        value("gpus").instead(
            "`--device /dev/nvidia0` and so on, with `-v` of the driver's libraries, show it one",
        ),
        value("pid").harmless(&["", "private"]).instead(
            "`rbuild exec` and `rbuild top` look into a container; processes of the machine are not shown",
        ),
        value("runtime").instead("rbuild is the runtime, also for others: `rbuild oci-runtime`"),
        value("pod").instead("`--network container:NAME` shares a network"),
        value("pod-id-file"),
        value("rootfs").instead("`rbuild import` makes an image of a directory's tar"),
        value("secret").instead("`-v FILE:/run/secrets/NAME:ro` shows a file"),
        value("systemd").harmless(&["false"]),
        value("sdnotify").harmless(&["ignore"]),
        value("timeout").instead("`timeout SECONDS` before the command in the container"),
        value("tz").instead("`-e TZ=ZONE`, or `-v /etc/localtime:/etc/localtime:ro`"),
        value("umask").harmless(&["0022", "022", "22"]),
        value("unsetenv").instead("`-e NAME` without a value takes it away"),
        flag("unsetenv-all"),
        flag("env-host").instead("`-e NAME` takes a variable of the environment"),
        flag("http-proxy").harmless(&["false"]).instead("`-e HTTP_PROXY` takes it over"),
        flag("no-hosts"),
        flag("rmi").instead("`rbuild rmi` afterwards"),
        flag("read-only-tmpfs").harmless(&["false"]).instead("`--tmpfs /tmp:exec`"),
        value("pidfile").instead("`rbuild inspect -f '{{.State.Pid}}'` tells it"),
        value("conmon-pidfile"),
        value("preserve-fds"),
        value("cgroups").harmless(&["enabled"]),
        value("authfile").instead("`REGISTRY_AUTH_FILE` names it"),
        flag("tls-verify").harmless(&["true"]).instead("`rbuild pull --tls-verify=false` before"),
        value("arch").instead("use `--platform OS/ARCH`"),
        value("os").instead("use `--platform OS/ARCH`"),
        value("variant").instead("use `--platform OS/ARCH/VARIANT`"),
    ];
}
