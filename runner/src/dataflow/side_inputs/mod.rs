//! Side inputs: tables that operators fill, and what holds main input back until they can be read.
//!
//! [`Tables`] has the tables of a process, [`Fillers`] builds the operators that fill them, and a [`Gate`] stands before
//! the operator of each stage that reads some.

mod gate;
mod map_windows;
mod materialise;
mod tables;

#[cfg(test)]
mod proof;

pub(crate) use gate::{Gate, Passed, SideInputs};
pub(crate) use tables::{Fillers, Tables, form_of_side_input};
