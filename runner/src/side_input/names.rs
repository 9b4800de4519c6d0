//! The two names of a window.
//!
//! Java's harness names the windows of side inputs in its own coder, the others in the wire's. They differ for custom
//! windows, which have their timestamp, and perhaps a length, put before them on the wire. Here all are kept bare.

use crate::executor::{StateError, StatePage};
use crate::windowing::WindowCoder;

/// What a window is kept under.
pub(super) fn bare<'a>(coder: &WindowCoder, window: &'a [u8]) -> &'a [u8] {
    coder.bare(window).unwrap_or(window)
}

/// Reads a window by either of its names: a bare window may look like one in wire form.
pub(super) fn in_window(
    coder: &WindowCoder,
    window: &[u8],
    read: impl Fn(&[u8]) -> Result<StatePage, StateError>,
) -> Result<StatePage, StateError> {
    let bare = bare(coder, window);
    match read(bare) {
        Ok(page) if !page.data.is_empty() => Ok(page),
        first if bare.len() == window.len() => first,
        _ => read(window),
    }
}
