//! The ids of a pipeline's components: strings that an SDK chose, each kind a type of its own.

use std::borrow::Borrow;
use std::fmt;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                $name(name.to_owned())
            }
        }

        // So that maps can be asked with a string from a proto.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// Id of a transform in the pipeline.
    TransformName,
    /// Id of a PCollection in the pipeline.
    PCollectionName,
    /// Id of a coder in the pipeline.
    CoderName,
    /// Id of a windowing strategy in the pipeline.
    WindowingName,
    /// Id of an environment in the pipeline.
    EnvironmentName,
}
