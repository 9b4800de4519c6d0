//! A typed, validated view of a submitted pipeline.
