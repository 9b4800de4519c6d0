//! Side inputs as tables that harnesses read page by page.
