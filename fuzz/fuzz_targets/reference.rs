//! The small values: what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::{
    ChmodMode, ChownSpec, ImageReference, Platform, check_signal, format_duration, parse_duration,
    parse_mount, parse_port_spec, parse_size, source_kind,
};

fuzz_target!(|text: &str| {
    if let Ok(reference) = ImageReference::parse(text) {
        assert_eq!(ImageReference::parse(&reference.familiar()).as_ref(), Ok(&reference));
        let full = ImageReference::parse(&reference.canonical());
        assert_eq!(full, Ok(reference.with_default_tag()));
    }
    if let Ok(platform) = Platform::parse(text)
        && platform.os_version.is_none()
        && platform.os_features.is_empty()
    {
        assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }
    if let Ok(ns) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(ns)), Ok(ns));
    }
    if let Ok(mode) = ChmodMode::parse(text) {
        assert!(mode.apply(0o644, false) <= 0o7777);
    }
    if let Ok(spec) = parse_port_spec(text) {
        assert!(spec.ports.len() <= 65_536);
    }
    let _ = ChownSpec::parse(text);
    let _ = check_signal(text);
    let _ = parse_size(text);
    let _ = parse_mount(text);
    let _ = source_kind(text);
});
