//! Times of images as Docker shows them.

use jiff::Timestamp;

use crate::ui::units::age;

/// The time of creation; none if there is none, or if it is Go's zero time.
pub(crate) fn parse_created(text: Option<&str>) -> Option<Timestamp> {
    let time = text?.parse::<Timestamp>().ok()?;
    (time.as_second() > GO_ZERO).then_some(time)
}

/// First second of the year 1, which Go writes for "no time".
const GO_ZERO: i64 = -62_135_596_800;

/// `3 days ago`, or `N/A`.
pub(crate) fn created_since(created: Option<Timestamp>, now: Timestamp) -> String {
    match created {
        Some(created) => {
            format!(
                "{} ago",
                age(now.as_second().saturating_sub(created.as_second()))
            )
        }
        None => "N/A".into(),
    }
}

/// `2024-05-06 07:08:09 +0000 UTC`, or `N/A`.
pub(crate) fn created_at(created: Option<Timestamp>) -> String {
    match created {
        Some(_) => created_at_seconds(created)
            .replace('T', " ")
            .replace('Z', " +0000 UTC"),
        None => "N/A".into(),
    }
}

/// `2024-05-06T07:08:09Z`, or `N/A`.
pub(crate) fn created_at_seconds(created: Option<Timestamp>) -> String {
    match created {
        Some(created) => Timestamp::from_second(created.as_second())
            .unwrap_or(created)
            .to_string(),
        None => "N/A".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_docker_shows_them() {
        let created = parse_created(Some("2024-05-06T07:08:09.123456789Z"));
        let now = "2024-05-09T07:08:09Z".parse().unwrap();
        assert_eq!(created_since(created, now), "3 days ago");
        assert_eq!(created_at(created), "2024-05-06 07:08:09 +0000 UTC");
        assert_eq!(
            created_at(parse_created(Some("2024-05-06T09:08:09+02:00"))),
            created_at(created)
        );
        assert_eq!(created_since(None, now), "N/A");
        assert_eq!(parse_created(Some("0001-01-01T00:00:00Z")), None);
    }
}
