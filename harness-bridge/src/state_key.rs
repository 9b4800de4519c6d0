//! `StateKey` at the door: from the wire to [`StateKey`].

use ferrobeam_proto::fn_execution as wire;
use ferrobeam_proto::fn_execution::state_key::Type;
use ferrobeam_runner::executor::{StateError, StateKey};

/// Reads the key of a state request. A kind that no stage of ours can have is refused by its name.
pub(crate) fn from_proto(key: Option<wire::StateKey>) -> Result<StateKey, StateError> {
    let unsupported = |kind: &str, transform: &str, id: &str| {
        Err(StateError::Unsupported(format!("{kind} {id:?} of transform {transform}: user state is not supported yet")))
    };
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
        Some(Type::BagUserState(key)) => unsupported("bag state", &key.transform_id, &key.user_state_id),
        Some(Type::MultimapKeysUserState(key)) => {
            unsupported("multimap state (keys)", &key.transform_id, &key.user_state_id)
        }
        Some(Type::MultimapEntriesUserState(key)) => {
            unsupported("multimap state (entries)", &key.transform_id, &key.user_state_id)
        }
        Some(Type::MultimapUserState(key)) => unsupported("multimap state", &key.transform_id, &key.user_state_id),
        Some(Type::OrderedListUserState(key)) => {
            unsupported("ordered list state", &key.transform_id, &key.user_state_id)
        }
        None => Err(StateError::Unsupported("a state request without a state key that this runner knows".into())),
    }
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

    #[test]
    fn user_state_is_refused_by_name() {
        let bag = wire::state_key::BagUserState {
            transform_id: "count".into(),
            user_state_id: "seen".into(),
            ..Default::default()
        };
        let error = from_proto(Some(wire::StateKey { r#type: Some(Type::BagUserState(bag)) })).unwrap_err();
        assert!(error.to_string().contains("bag state \"seen\" of transform count"), "{error}");
        assert!(from_proto(None).is_err());
        assert!(from_proto(Some(wire::StateKey { r#type: None })).is_err());
    }
}
