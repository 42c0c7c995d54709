//! Which of several images fits a platform.

use rbuild_parser::Platform;

use super::config::ImageConfig;
use super::manifest::DescriptorPlatform;

/// Operating system, architecture and variant in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Normal<'a> {
    os: &'a str,
    architecture: &'a str,
    variant: &'a str,
}

impl DescriptorPlatform {
    /// The platform that a config says it is for.
    pub(crate) fn of_config(config: &ImageConfig) -> DescriptorPlatform {
        DescriptorPlatform {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            os_version: None,
            os_features: Vec::new(),
            variant: config.variant.clone(),
        }
    }

    /// Returns the form `linux/arm/v7`.
    pub fn text(&self) -> String {
        match self.variant.as_deref() {
            None | Some("") => format!("{}/{}", self.os, self.architecture),
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
        }
    }
}

/// Brings the spellings of an architecture to one.
fn normal<'a>(os: &'a str, architecture: &'a str, variant: Option<&'a str>) -> Normal<'a> {
    let variant = variant.unwrap_or_default();
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("i386", _) => ("386", ""),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        other => other,
    };
    Normal {
        os,
        architecture,
        variant,
    }
}

/// Tells how well an image for `have` serves `wanted`: the smaller the better, none if not at all.
///
/// The order is containerd's: the exact variant, then lower ones, then the 32-bit relatives that the
/// same machine runs.
pub(crate) fn rank(wanted: &Platform, have: &DescriptorPlatform) -> Option<usize> {
    let want = normal(&wanted.os, &wanted.architecture, wanted.variant.as_deref());
    let have = normal(&have.os, &have.architecture, have.variant.as_deref());
    if want.os != have.os {
        return None;
    }
    accepted(&want).iter().position(|(architecture, variant)| {
        *architecture == have.architecture && variant == have.variant
    })
}

/// Architectures and variants that serve `want`, best first.
fn accepted(want: &Normal<'_>) -> Vec<(String, String)> {
    let pair = |architecture: &str, variant: &str| (architecture.to_owned(), variant.to_owned());
    let level = |text: &str| {
        text.strip_prefix('v')
            .and_then(|digits| digits.parse::<u8>().ok())
    };
    let arm_down_from = |top: u8| (5..=top).rev().map(move |n| pair("arm", &format!("v{n}")));
    let mut list = vec![pair(want.architecture, want.variant)];
    match want.architecture {
        "amd64" => {
            let top = level(want.variant).unwrap_or(1).min(9);
            list.extend((2..top).rev().map(|n| pair("amd64", &format!("v{n}"))));
            if !want.variant.is_empty() {
                list.push(pair("amd64", ""));
            }
            list.push(pair("386", ""));
        }
        "arm" => list.extend(arm_down_from(
            level(want.variant).unwrap_or(7).clamp(5, 9) - 1,
        )),
        "arm64" => {
            if !want.variant.is_empty() {
                list.push(pair("arm64", ""));
            }
            list.extend(arm_down_from(8));
        }
        _ => {}
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
            ..Platform::host()
        }
    }

    fn have(text: &str) -> DescriptorPlatform {
        let mut parts = text.split('/').map(str::to_owned);
        DescriptorPlatform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
            os_version: None,
            os_features: Vec::new(),
        }
    }

    fn best<'a>(wanted: &Platform, all: &[&'a str]) -> Option<&'a str> {
        all.iter()
            .filter_map(|text| Some((rank(wanted, &have(text))?, *text)))
            .min()
            .map(|(_, text)| text)
    }

    #[test]
    fn exact_platform_wins() {
        let all = [
            "linux/386",
            "linux/arm64/v8",
            "linux/amd64",
            "windows/amd64",
            "linux/arm/v7",
        ];
        assert_eq!(best(&wanted("amd64", None), &all), Some("linux/amd64"));
        assert_eq!(best(&wanted("arm64", None), &all), Some("linux/arm64/v8"));
        assert_eq!(best(&wanted("s390x", None), &all), None);
    }

    #[test]
    fn lower_variants_serve() {
        let arms = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"];
        assert_eq!(
            best(&wanted("arm", Some("v7")), &arms),
            Some("linux/arm/v6")
        );
        assert_eq!(best(&wanted("arm64", None), &arms), Some("linux/arm/v8"));
        assert_eq!(best(&wanted("arm", Some("v5")), &["linux/arm/v6"]), None);
        let levels = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"];
        assert_eq!(
            best(&wanted("amd64", Some("v3")), &levels),
            Some("linux/amd64/v2")
        );
        assert_eq!(best(&wanted("amd64", None), &levels), Some("linux/amd64"));
    }

    #[test]
    fn unknown_platforms_of_attestations_never_serve() {
        assert_eq!(rank(&wanted("amd64", None), &have("unknown/unknown")), None);
    }

    #[test]
    fn spellings_are_one() {
        assert_eq!(rank(&wanted("amd64", None), &have("linux/x86_64")), Some(0));
        assert_eq!(
            rank(&wanted("arm", Some("v7")), &have("linux/arm")),
            Some(0)
        );
    }
}
