//! Where filters are placed: from a listener's table to a model's stack.

mod arm;
mod balance;
mod checking;
mod control;
mod describe;
mod gather;
mod infer;
mod kept;
mod learning;
#[cfg(test)]
mod losing;
mod model;
mod observed;
mod outliers;
mod pace;
mod passthrough;
#[cfg(test)]
mod promises;
mod rename;
mod replicas;
mod router;
mod selection;
mod table;
mod teach;
mod views;
mod warm;
mod watch;
mod ways;

pub(crate) use self::gather::{Held, Whole};
pub use self::{
    arm::Arm,
    gather::GatheredTooMuch,
    infer::{NoTimeout, NotConfigured, NotKnown, NotOneMessage, Query, TooLarge},
    learning::Learning,
    model::Model,
    router::Router,
    table::{Route, Table},
};
