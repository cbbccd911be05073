#![doc = include_str!("README.md")]

mod cancel;
mod error;
mod outlive;
mod room;

pub(crate) use self::outlive::{Abandoned, Outlive};
pub use self::{
    cancel::Cancel,
    error::{Bound, Overloaded, Scope},
    room::{Reserved, Room},
};
