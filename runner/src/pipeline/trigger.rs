//! What planning must know of triggers.

use ferrobeam_proto::pipeline::Trigger;
use ferrobeam_proto::pipeline::trigger::Trigger as Kind;

/// Whether elements may be combined before they reach this trigger. One that counts elements must see each of them.
///
/// Recursion is bounded, because decoding a message bounds how deeply it nests.
pub(super) fn allows_lifting(trigger: Option<&Trigger>) -> bool {
    let Some(kind) = trigger.and_then(|trigger| trigger.trigger.as_ref()) else {
        return true;
    };
    match kind {
        Kind::Default(_)
        | Kind::Always(_)
        | Kind::Never(_)
        | Kind::AfterProcessingTime(_)
        | Kind::AfterSynchronizedProcessingTime(_) => true,
        Kind::ElementCount(count) => count.element_count == 1,
        Kind::AfterEndOfWindow(after) => {
            allows_lifting(after.early_firings.as_deref()) && allows_lifting(after.late_firings.as_deref())
        }
        Kind::AfterAny(any) => any.subtriggers.iter().all(|trigger| allows_lifting(Some(trigger))),
        Kind::Repeat(repeat) => allows_lifting(repeat.subtrigger.as_deref()),
        Kind::AfterAll(_) | Kind::AfterEach(_) | Kind::OrFinally(_) => false,
    }
}
