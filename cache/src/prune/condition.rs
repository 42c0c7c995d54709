//! Conditions that choose items of the store, for `du` and for pruning a part of the build cache.

use super::{UsageItem, UsageKind};

/// What holds for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemCondition {
    /// Its ID begins with this.
    Id(String),
    /// It is of this kind.
    Kind(UsageKind),
    /// It is for exactly this.
    Description(String),
    /// What it is for has this in it.
    DescriptionPart(String),
    /// An image, a pin or a living process needs it.
    InUse,
    /// Its content may change: a cache mount.
    Mutable,
    /// An image and the build cache both use it.
    Shared,
    /// Something does not hold.
    Not(Box<ItemCondition>),
}

impl ItemCondition {
    /// Tells whether it holds for an item.
    pub fn holds(&self, item: &UsageItem) -> bool {
        match self {
            ItemCondition::Id(beginning) => item.id.starts_with(beginning.as_str()),
            ItemCondition::Kind(kind) => item.kind == *kind,
            ItemCondition::Description(text) => item.description == *text,
            ItemCondition::DescriptionPart(text) => item.description.contains(text.as_str()),
            ItemCondition::InUse => !item.reclaimable,
            ItemCondition::Mutable => item.kind == UsageKind::CacheMount,
            ItemCondition::Shared => item.shared,
            ItemCondition::Not(condition) => !condition.holds(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_look_at_one_thing_each() {
        let item = UsageItem {
            kind: UsageKind::Layer,
            id: "abc123".to_owned(),
            size: 1,
            last_used_unix: 1,
            reclaimable: true,
            shared: false,
            description: "RUN make".to_owned(),
        };
        let not = |condition| ItemCondition::Not(Box::new(condition));
        for condition in [
            ItemCondition::Id("abc".to_owned()),
            ItemCondition::Kind(UsageKind::Layer),
            ItemCondition::Description("RUN make".to_owned()),
            ItemCondition::DescriptionPart("make".to_owned()),
            not(ItemCondition::Description("make".to_owned())),
            not(ItemCondition::InUse),
            not(ItemCondition::Mutable),
            not(ItemCondition::Shared),
        ] {
            assert!(condition.holds(&item), "{condition:?}");
            assert!(!not(condition.clone()).holds(&item), "{condition:?}");
        }
    }
}
