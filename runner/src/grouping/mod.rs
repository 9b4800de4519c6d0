//! Grouping by key and window, in memory and then on disk.
