//! What the standard says of each method, read from its descriptors: is a call unary, may it be made again?

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::method_options::IdempotencyLevel;

use crate::v1;

/// One method, as far as a client treats methods differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// One request and one response. What is not is handed through as it comes.
    pub(crate) unary: bool,
    /// Has no side effects: may be made again when no sidecar has answered.
    pub(crate) repeatable: bool,
    /// Answered by the sidecar itself, so that its deadline is short.
    pub(crate) local: bool,
}

/// Treated with the most caution, as a newer service's would be.
const UNKNOWN: Method = Method { unary: false, repeatable: false, local: false };

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let mut methods = HashMap::new();
    for file in &descriptors().file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let level = method
                    .options
                    .as_ref()
                    .map_or(IdempotencyLevel::IdempotencyUnknown, |o| o.idempotency_level());
                let unary = !method.client_streaming() && !method.server_streaming();
                let known = Method {
                    unary,
                    repeatable: unary && level == IdempotencyLevel::NoSideEffects,
                    local: service.name() == "ValidatorService",
                };
                methods.insert(path, known);
            }
        }
    }
    methods
});

/// Look a method up by its path, `/trustlayer.v1.SessionService/Login`.
pub(crate) fn find(path: &str) -> Method {
    METHODS.get(path).copied().unwrap_or(UNKNOWN)
}

/// The descriptors of the package, as they are generated beside its code.
pub(crate) fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("the generated descriptors can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_calls_free_of_side_effects_is_repeated() {
        assert!(find("/trustlayer.v1.ValidatorService/Validate").repeatable);
        assert!(find("/trustlayer.v1.SessionService/ListSessions").repeatable);
        assert!(!find("/trustlayer.v1.SessionService/Login").repeatable);
        // Idempotent, and with an effect all the same.
        assert!(!find("/trustlayer.v1.SessionService/Logout").repeatable);
    }

    #[test]
    fn a_stream_is_never_repeated() {
        let watch = find("/trustlayer.v1.BridgeService/WatchRevocations");
        assert!(!watch.unary && !watch.repeatable);
    }

    #[test]
    fn a_method_of_a_newer_standard_is_never_repeated() {
        assert_eq!(find("/trustlayer.v1.SessionService/Invented"), UNKNOWN);
    }
}
