//! Timers on the wire (`beam:coder:timer:v1`).
//!
//! The key, the dynamic tag as a prefixed string, the windows with their number in four bytes, a bit that says whether
//! the timer is cleared, and unless it is: when it fires, the timestamp of its output, and a pane info.

use super::windowed::{many_windows, pane};
use super::wire::{self, Stop};
use super::{ElementError, WireCoder, put_varint};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// One encoded timer, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerView<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// The dynamic tag; empty for most.
    pub tag: &'a [u8],
    /// Its windows, each encoded. SDKs set a timer in one window at a time, but the protocol allows several.
    pub windows: Vec<&'a [u8]>,
    /// What it is set to; `None` clears it.
    pub set: Option<TimerTimes<'a>>,
}

/// What a timer is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerTimes<'a> {
    /// When it fires, in its time domain.
    pub fire: Timestamp,
    /// The timestamp of what it will output, which holds the watermark back until it has fired.
    pub hold: Timestamp,
    /// The encoded pane info of the element that set it.
    pub pane: &'a [u8],
}

impl<'a> TimerView<'a> {
    /// Reads the timer at the start of `bytes`; gives its length too.
    pub fn parse(
        bytes: &'a [u8],
        key: &WireCoder,
        window: &WindowCoder,
    ) -> Result<(TimerView<'a>, usize), ElementError> {
        let key_end = key.skip(bytes)?;
        let tag_end = wire::prefixed(bytes, key_end)?;
        let (_, tag_start) = wire::varint(bytes, key_end)?;
        let count = bytes.get(tag_end..).and_then(|rest| rest.first_chunk()).ok_or(Stop::Needs(tag_end + 4))?;
        let mut at = tag_end + 4;
        let mut windows = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            if windows.len() > bytes.len() {
                return Err(ElementError::Malformed("a timer in more windows than it has bytes".into()));
            }
            let end = many_windows(window, 1, bytes, at)?;
            windows.push(bytes.get(at..end).ok_or(ElementError::Incomplete)?);
            at = end;
        }
        let cleared = *bytes.get(at).ok_or(Stop::Needs(at + 1))? != 0;
        at += 1;
        let set = if cleared {
            None
        } else {
            let [fire, hold] = [at, at + 8].map(|from| bytes.get(from..).and_then(|rest| rest.first_chunk::<8>()));
            let (Some(fire), Some(hold)) = (fire, hold) else { return Err(ElementError::Incomplete) };
            let end = pane(bytes, at + 16)?;
            let pane = bytes.get(at + 16..end).ok_or(ElementError::Incomplete)?;
            at = end;
            Some(TimerTimes { fire: Timestamp::from_wire(*fire), hold: Timestamp::from_wire(*hold), pane })
        };
        let (key, tag) = (&bytes[..key_end], &bytes[tag_start..tag_end]);
        Ok((TimerView { key, tag, windows, set }, at))
    }

    /// Appends the timer's wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
        put_varint(out, self.tag.len() as u64);
        out.extend_from_slice(self.tag);
        out.extend_from_slice(&(self.windows.len() as u32).to_be_bytes());
        for window in &self.windows {
            out.extend_from_slice(window);
        }
        out.push(u8::from(self.set.is_none()));
        if let Some(TimerTimes { fire, hold, pane }) = self.set {
            out.extend_from_slice(&fire.to_wire());
            out.extend_from_slice(&hold.to_wire());
            out.extend_from_slice(pane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_survives_the_wire() {
        let window = Timestamp(10).to_wire().into_iter().chain([10]).collect::<Vec<u8>>();
        let set = Some(TimerTimes { fire: Timestamp(7), hold: Timestamp(-3), pane: &[0x0f] });
        for set in [set, None] {
            let timer = TimerView { key: &[2, b'k', b'k'], tag: b"tag", windows: vec![&window], set };
            let mut bytes = Vec::new();
            timer.encode(&mut bytes);
            bytes.extend_from_slice(b"rest");
            let (read, length) = TimerView::parse(&bytes, &WireCoder::Prefixed, &WindowCoder::Interval).unwrap();
            assert_eq!((read, length), (timer, bytes.len() - 4));
        }
    }

    #[test]
    fn no_prefix_of_a_timer_is_a_timer() {
        let set = Some(TimerTimes { fire: Timestamp(7), hold: Timestamp(-3), pane: &[0x0f] });
        let mut bytes = Vec::new();
        TimerView { key: &[1, b'k'], tag: b"", windows: vec![&[]], set }.encode(&mut bytes);
        for end in 0..bytes.len() {
            assert!(TimerView::parse(&bytes[..end], &WireCoder::Prefixed, &WindowCoder::Global).is_err(), "{end}");
        }
    }
}
