//! Panes: which of a window's firings an element is, and whether there is one at all.

use super::{ClosingBehavior, OnTimeBehavior, Windowing};
use crate::element::{ElementError, PANE_METADATA, get_varint, put_varint};

/// When a pane was fired with regard to the watermark; the numbers are those of the pane encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timing {
    /// Before the watermark passed the window's end.
    Early = 0,
    /// The one pane at the window's end.
    OnTime = 1,
    /// After that one, or when the watermark downstream had passed the window's end already.
    Late = 2,
    /// No trigger has touched the element.
    Unknown = 3,
}

/// Which of its window's firings an element is (`PaneInfo` of the SDKs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaneInfo {
    /// There was none before it.
    pub is_first: bool,
    /// There will be none after it.
    pub is_last: bool,
    /// When it was fired.
    pub timing: Timing,
    /// How many came before it.
    pub index: u64,
    /// How many of those were not early; `None` for an early pane, which the encoding writes as -1.
    pub on_time_index: Option<u64>,
}

/// How far time has come for a window that fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The input watermark has passed the window's greatest timestamp.
    pub input: bool,
    /// The output watermark has: whatever is emitted now is late for those downstream.
    pub output: bool,
}

/// Bits of the first byte of an encoded pane; above them the timing (two bits), and in the high half the form.
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// Forms: no index follows, one does, or both do.
const NO_INDEX: u8 = 0x00;
const ONE_INDEX: u8 = 0x10;
const TWO_INDICES: u8 = 0x20;

impl PaneInfo {
    /// The pane of a firing after `previous`, the window's last pane that was emitted.
    pub fn next(previous: Option<&PaneInfo>, is_last: bool, passed: Passed) -> PaneInfo {
        let only_early_before = previous.is_none_or(|previous| previous.timing == Timing::Early);
        let timing = if passed.output || !only_early_before {
            Timing::Late
        } else if passed.input {
            Timing::OnTime
        } else {
            Timing::Early
        };
        let not_early_before = previous.and_then(|previous| previous.on_time_index);
        PaneInfo {
            is_first: previous.is_none(),
            is_last,
            timing,
            index: previous.map_or(0, |previous| previous.index.saturating_add(1)),
            on_time_index: (timing != Timing::Early)
                .then(|| not_early_before.map_or(0, |index| index.saturating_add(1))),
        }
    }

    /// Appends the pane in the form that windowed values have it in (`beam:coder:windowed_value:v1`): a byte of flags,
    /// then as many indices, as varints, as do not follow from it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags =
            if self.is_first { FIRST } else { 0 } | if self.is_last { LAST } else { 0 } | (self.timing as u8) << 2;
        let other = self.on_time_index.unwrap_or(u64::MAX);
        if self.timing == Timing::Unknown || self.index == 0 && other == 0 {
            out.push(flags | NO_INDEX);
        } else if self.timing == Timing::Early || self.index == other {
            out.push(flags | ONE_INDEX);
            put_varint(out, self.index);
        } else {
            out.push(flags | TWO_INDICES);
            put_varint(out, self.index);
            put_varint(out, other);
        }
    }

    /// Reads `bytes`, which are one encoded pane and nothing else but metadata of the element, which are left out.
    pub fn decode(bytes: &[u8]) -> Result<PaneInfo, ElementError> {
        let (flags, mut rest) = bytes.split_first().ok_or(ElementError::Incomplete)?;
        let timing = match flags >> 2 & 3 {
            0 => Timing::Early,
            1 => Timing::OnTime,
            2 => Timing::Late,
            _ => Timing::Unknown,
        };
        let mut next = || -> Result<u64, ElementError> {
            let (index, size) = get_varint(rest)?;
            rest = &rest[size..];
            Ok(index)
        };
        let (index, other) = match flags & 0xf0 & !PANE_METADATA {
            NO_INDEX => (0, 0),
            ONE_INDEX => next().map(|index| (index, index))?,
            TWO_INDICES => (next()?, next()?),
            _ => return Err(ElementError::Malformed("a pane info of an unknown encoding".into())),
        };
        let metadata = match flags & PANE_METADATA {
            0 => 0,
            _ => get_varint(rest).map(|(length, size)| length.saturating_add(size as u64))?,
        };
        if rest.len() as u64 != metadata {
            return Err(ElementError::Malformed("bytes after a pane info".into()));
        }
        let on_time_index = (timing != Timing::Early && other != u64::MAX).then_some(other);
        Ok(PaneInfo { is_first: flags & FIRST != 0, is_last: flags & LAST != 0, timing, index, on_time_index })
    }
}

impl Windowing {
    /// Whether a firing emits a pane. `empty`: nothing has come since the last one.
    pub fn emits(&self, pane: &PaneInfo, empty: bool) -> bool {
        !empty
            || pane.timing == Timing::OnTime && self.on_time == OnTimeBehavior::FireAlways
            || pane.is_last && self.closing == ClosingBehavior::EmitAlways
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::windowing::{Merging, WindowCoder};

    const BEFORE: Passed = Passed { input: false, output: false };
    const AT_END: Passed = Passed { input: true, output: false };
    const AFTER: Passed = Passed { input: true, output: true };

    fn panes(firings: &[Passed]) -> Vec<PaneInfo> {
        let mut panes: Vec<PaneInfo> = Vec::new();
        for (at, passed) in firings.iter().enumerate() {
            panes.push(PaneInfo::next(panes.last(), at + 1 == firings.len(), *passed));
        }
        panes
    }

    #[test]
    fn panes_are_early_then_on_time_once_then_late() {
        use Timing::{Early, Late, OnTime};
        let summary = |firings: &[Passed]| -> Vec<(Timing, u64, Option<u64>)> {
            panes(firings).iter().map(|pane| (pane.timing, pane.index, pane.on_time_index)).collect()
        };
        assert_eq!(
            summary(&[BEFORE, BEFORE, AT_END, AT_END, AFTER]),
            [(Early, 0, None), (Early, 1, None), (OnTime, 2, Some(0)), (Late, 3, Some(1)), (Late, 4, Some(2))]
        );
        assert_eq!(summary(&[AT_END]), [(OnTime, 0, Some(0))]);
        assert_eq!(summary(&[AFTER, AFTER]), [(Late, 0, Some(0)), (Late, 1, Some(1))]);
        assert_eq!(summary(&[BEFORE, AFTER]), [(Early, 0, None), (Late, 1, Some(0))]);
        let panes = panes(&[BEFORE, AT_END]);
        assert_eq!((panes[0].is_first, panes[0].is_last), (true, false));
        assert_eq!((panes[1].is_first, panes[1].is_last), (false, true));
    }

    #[test]
    fn panes_are_encoded_as_the_sdks_do() {
        let encoded = |pane: &PaneInfo| {
            let mut bytes = Vec::new();
            pane.encode(&mut bytes);
            bytes
        };
        let all: Vec<Vec<u8>> = panes(&[BEFORE, BEFORE, AT_END, AFTER]).iter().map(encoded).collect();
        assert_eq!(all, [vec![0x11, 0], vec![0x10, 1], vec![0x24, 2, 0], vec![0x2a, 3, 1]]);
        assert_eq!(encoded(&panes(&[AT_END])[0]), crate::element::PANE_ON_TIME_AND_ONLY);
        let untouched =
            PaneInfo { is_first: true, is_last: true, timing: Timing::Unknown, index: 0, on_time_index: Some(0) };
        assert_eq!(encoded(&untouched), crate::element::PANE_NO_FIRING);
    }

    #[test]
    fn empty_panes_are_for_those_who_asked() {
        let pane = |last, passed| PaneInfo::next(None, last, passed);
        let mut windowing = Windowing::plain(WindowCoder::Global, Merging::None);
        windowing.on_time = OnTimeBehavior::FireIfNonempty;
        assert!(windowing.emits(&pane(false, BEFORE), false));
        assert!(!windowing.emits(&pane(true, AT_END), true));
        windowing.on_time = OnTimeBehavior::FireAlways;
        assert!(windowing.emits(&pane(false, AT_END), true));
        assert!(!windowing.emits(&pane(true, AFTER), true));
        windowing.closing = ClosingBehavior::EmitAlways;
        assert!(windowing.emits(&pane(true, AFTER), true));
        assert!(!windowing.emits(&pane(false, BEFORE), true));
    }

    proptest! {
        #[test]
        fn panes_keep_their_form(firings in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..40)) {
            let firings: Vec<Passed> = firings.iter().map(|(input, output)| Passed { input: *input, output: *output }).collect();
            for pane in panes(&firings) {
                let mut bytes = Vec::new();
                pane.encode(&mut bytes);
                prop_assert_eq!(PaneInfo::decode(&bytes), Ok(pane));
                bytes[0] |= PANE_METADATA;
                bytes.extend([3, 1, 2, 3]);
                prop_assert_eq!(PaneInfo::decode(&bytes), Ok(pane));
                bytes.pop();
                prop_assert!(PaneInfo::decode(&bytes).is_err());
            }
        }

        #[test]
        fn any_bytes_may_be_asked_for_a_pane(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let _ = PaneInfo::decode(&bytes);
        }
    }
}
