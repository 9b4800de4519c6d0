//! `StateKey` at the door: from the wire to [`StateKey`].

use ferrobeam_proto::fn_execution as wire;
use ferrobeam_proto::fn_execution::state_key::Type;
use ferrobeam_runner::executor::{CellPart, StateError, StateKey};

/// Reads the key of a state request.
pub(crate) fn from_proto(key: Option<wire::StateKey>) -> Result<StateKey, StateError> {
    match key.and_then(|key| key.r#type) {
        Some(Type::Runner(key)) => Ok(StateKey::Runner { key: key.key }),
        Some(Type::IterableSideInput(key)) => Ok(StateKey::IterableSideInput {
            transform: key.transform_id,
            side_input: key.side_input_id,
            window: key.window,
        }),
        Some(Type::MultimapSideInput(key)) => Ok(StateKey::MultimapSideInput {
            transform: key.transform_id,
            side_input: key.side_input_id,
            window: key.window,
            key: key.key,
        }),
        Some(Type::MultimapKeysSideInput(key)) => Ok(StateKey::MultimapKeysSideInput {
            transform: key.transform_id,
            side_input: key.side_input_id,
            window: key.window,
        }),
        Some(Type::MultimapKeysValuesSideInput(key)) => Ok(StateKey::MultimapKeysValuesSideInput {
            transform: key.transform_id,
            side_input: key.side_input_id,
            window: key.window,
        }),
        Some(Type::BagUserState(key)) => Ok(StateKey::User {
            transform: key.transform_id,
            state: key.user_state_id,
            window: key.window,
            key: key.key,
            part: CellPart::Bag,
        }),
        Some(Type::MultimapKeysUserState(key)) => Ok(StateKey::User {
            transform: key.transform_id,
            state: key.user_state_id,
            window: key.window,
            key: key.key,
            part: CellPart::MapKeys,
        }),
        Some(Type::MultimapEntriesUserState(key)) => Ok(StateKey::User {
            transform: key.transform_id,
            state: key.user_state_id,
            window: key.window,
            key: key.key,
            part: CellPart::MapEntries,
        }),
        Some(Type::MultimapUserState(key)) => Ok(StateKey::User {
            transform: key.transform_id,
            state: key.user_state_id,
            window: key.window,
            key: key.key,
            part: CellPart::MapValues(key.map_key),
        }),
        Some(Type::OrderedListUserState(key)) => Ok(StateKey::User {
            transform: key.transform_id,
            state: key.user_state_id,
            window: key.window,
            key: key.key,
            part: match key.range {
                Some(range) => CellPart::OrderedRange { start: range.start, end: range.end },
                // Appends name no range (Java).
                None => CellPart::OrderedRange { start: i64::MIN, end: i64::MAX },
            },
        }),
        None => Err(StateError::Unsupported("a state request without a state key that this runner knows".into())),
    }
}

/// What a `clear` of this key is to empty: a multimap may be cleared by either of the keys that mean all of it.
pub(crate) fn cleared(mut key: StateKey) -> StateKey {
    if let StateKey::User { part, .. } = &mut key
        && *part == CellPart::MapEntries
    {
        *part = CellPart::MapKeys;
    }
    key
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn side_inputs_keep_every_field() {
        let key = wire::StateKey {
            r#type: Some(Type::MultimapSideInput(wire::state_key::MultimapSideInput {
                transform_id: "t".into(),
                side_input_id: "i".into(),
                window: Bytes::from_static(b"w"),
                key: Bytes::from_static(b"k"),
            })),
        };
        let expected = StateKey::MultimapSideInput {
            transform: "t".into(),
            side_input: "i".into(),
            window: Bytes::from_static(b"w"),
            key: Bytes::from_static(b"k"),
        };
        assert_eq!(from_proto(Some(key)).unwrap(), expected);
    }

    fn user(part: CellPart) -> StateKey {
        StateKey::User {
            transform: "t".into(),
            state: "s".into(),
            window: Bytes::from_static(b"w"),
            key: Bytes::from_static(b"k"),
            part,
        }
    }

    #[test]
    fn every_kind_of_user_state_keeps_every_field() {
        macro_rules! key {
            ($variant:ident { $($field:ident: $value:expr),* }) => {
                Type::$variant(wire::state_key::$variant {
                    transform_id: "t".into(),
                    user_state_id: "s".into(),
                    window: Bytes::from_static(b"w"),
                    key: Bytes::from_static(b"k"),
                    $($field: $value),*
                })
            };
        }
        let range = |start, end| Some(wire::OrderedListRange { start, end });
        for (key, part) in [
            (key!(BagUserState {}), CellPart::Bag),
            (key!(MultimapKeysUserState {}), CellPart::MapKeys),
            (key!(MultimapEntriesUserState {}), CellPart::MapEntries),
            (
                key!(MultimapUserState { map_key: Bytes::from_static(b"m") }),
                CellPart::MapValues(Bytes::from_static(b"m")),
            ),
            (key!(OrderedListUserState { range: range(-3, 7) }), CellPart::OrderedRange { start: -3, end: 7 }),
            (key!(OrderedListUserState { range: None }), CellPart::OrderedRange { start: i64::MIN, end: i64::MAX }),
        ] {
            assert_eq!(from_proto(Some(wire::StateKey { r#type: Some(key) })).unwrap(), user(part));
        }
    }

    #[test]
    fn clearing_all_entries_of_a_map_is_clearing_all_its_keys() {
        assert_eq!(cleared(user(CellPart::MapEntries)), user(CellPart::MapKeys));
        for part in [CellPart::Bag, CellPart::MapKeys, CellPart::MapValues(Bytes::new())] {
            assert_eq!(cleared(user(part.clone())), user(part));
        }
    }

    #[test]
    fn a_key_of_no_kind_is_refused() {
        assert!(from_proto(None).is_err());
        assert!(from_proto(Some(wire::StateKey { r#type: None })).is_err());
    }
}
