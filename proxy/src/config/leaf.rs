//! The small values of the file: how each is written, and what its schema says.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{
    admission::Concurrency,
    batch::{Controller, InFlight, Share},
    cache::{Bypass, Unit},
    overload::Cancel,
    select::{Missing, Policy, Value},
};
use rustls::pki_types;
use serde_json::{Value as Json, json};

use super::document::Scalar;
use super::read::{Leaf, unknown};
use super::units;
use super::{Endpoint, HttpVersion, Name, Protocol, RedisUrl};

/// A size in bytes that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

/// A whole number that may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

/// The path of a file, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

/// What is done with clients that show no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuth {
    Required,
    Optional,
}

/// A name that a certificate may be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName(pub(super) pki_types::ServerName<'static>);

/// A part of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fraction(pub(super) f64);

/// A number that is not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weight(pub(super) f64);

/// A number that is more than 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Positive(pub(super) f64);

/// The share of requests of which an arm gets a copy; `None` where it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shadow(pub(super) Option<f64>);

/// What a failure counts as; `None` where it does not count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FailureLoss(pub(super) Option<f64>);

/// The name of a way to judge answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossKind {
    ZeroOne,
    Absolute,
    Squared,
    Log,
}

/// A value on which others depend, or what is wrong with it: who reads the others has to know that
/// it was written, so that one fault does not bring further ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Perhaps<T>(pub(super) Result<T, String>);

impl Leaf for Name {
    const WANTED: &'static str = "a name";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let text = text::<Self>(scalar)?;
        match text.parse() {
            Ok(name) => Ok(name),
            Err(message) => Err(message),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": Name::MAX_LENGTH })
    }
}

impl Leaf for SocketAddr {
    const WANTED: &'static str = "an IP address and a port, like 0.0.0.0:9001";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        text::<Self>(scalar)?.parse().map_err(|_| needs::<Self>())
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$" })
    }
}

impl Leaf for Endpoint {
    const WANTED: &'static str = "a URL like http://127.0.0.1:8001";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        text::<Self>(scalar)?.parse()
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(http://[^/?#@ ]+:[0-9]{1,5}|https://[^/?#@ ]+)/?$" })
    }
}

impl Leaf for Protocol {
    const WANTED: &'static str = "a protocol, like oip-grpc";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        text::<Self>(scalar)?.parse()
    }

    fn schema() -> Json {
        json!({ "enum": Protocol::ALL.map(Protocol::as_str) })
    }
}

impl Leaf for HttpVersion {
    const WANTED: &'static str = "1 or 2";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match scalar.text.as_str() {
            "1" if scalar.plain => Ok(Self::Http1),
            "2" if scalar.plain => Ok(Self::Http2),
            _ => Err(needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "enum": [1, 2] })
    }
}

impl Leaf for HeaderName {
    const WANTED: &'static str = "the name of a header";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        text::<Self>(scalar)?.parse().map_err(|_| needs::<Self>())
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^[0-9A-Za-z!#$%&'*+.^_`|~-]+$" })
    }
}

impl Leaf for bool {
    const WANTED: &'static str = "true or false";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        scalar.boolean().ok_or_else(needs::<Self>)
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

impl Leaf for NonZeroUsize {
    const WANTED: &'static str = "a whole number, at least 1";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let digits = scalar.plain && scalar.text.bytes().all(|byte| byte.is_ascii_digit());
        match digits {
            true => scalar.text.parse().map_err(|_| needs::<Self>()),
            false if !scalar.plain => Err(format!("{}, without quotes", needs::<Self>())),
            false => Err(needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1 })
    }
}

impl Leaf for Duration {
    const WANTED: &'static str = "a duration, like 20ms";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        units::parse_duration(&scalar.text)
            .map_err(|message| format!("{}; this {message}", needs::<Self>()))
    }

    fn schema() -> Json {
        json!({ "type": ["string", "integer"], "pattern": units::DURATION_PATTERN, "minimum": 0, "maximum": 0 })
    }
}

impl Leaf for Size {
    const WANTED: &'static str = "a size, like 64MiB";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match units::parse_size(&scalar.text) {
            Ok(0) => Err("must be more than 0".to_owned()),
            Ok(bytes) => Ok(Self(bytes)),
            Err(message) => Err(format!("{}; this {message}", needs::<Self>())),
        }
    }

    fn schema() -> Json {
        json!({ "type": ["string", "integer"], "pattern": units::SIZE_PATTERN, "minimum": 1 })
    }
}

impl Leaf for Count {
    const WANTED: &'static str = "a whole number";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let digits = scalar.text.bytes().all(|byte| byte.is_ascii_digit());
        match scalar.text.parse() {
            Ok(count) if scalar.plain && digits => Ok(Self(count)),
            Ok(_) if !scalar.plain => Err(format!("{}, without quotes", needs::<Self>())),
            _ => Err(needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl Leaf for InFlight {
    const WANTED: &'static str = "a whole number, at least 1, or auto";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match scalar.text.as_str() {
            "auto" => Ok(Self::Auto),
            _ => <NonZeroUsize as Leaf>::parse(scalar)
                .map(|calls| Self::Fixed(calls.get()))
                .map_err(|_| needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [<NonZeroUsize as Leaf>::schema(), { "const": "auto" }] })
    }
}

impl Leaf for Concurrency {
    const WANTED: &'static str = "a whole number, at least 1, or auto";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match scalar.text.as_str() {
            "auto" => Ok(Self::Auto),
            _ => <NonZeroUsize as Leaf>::parse(scalar)
                .map(Self::Fixed)
                .map_err(|_| needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [<NonZeroUsize as Leaf>::schema(), { "const": "auto" }] })
    }
}

impl Leaf for Cancel {
    const WANTED: &'static str = "never or abandoned";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|cancel| cancel.as_str() == name)
            .ok_or_else(|| unknown("way to cancel", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for Missing {
    const WANTED: &'static str = "leave-out or mean";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|missing| missing.as_str() == name)
            .ok_or_else(|| unknown("stand-in", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for Share {
    const WANTED: &'static str = "a number from 0 to 1, like 0.005";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let share = scalar.plain.then(|| scalar.text.parse().ok()).flatten();
        share.and_then(Self::new).ok_or_else(needs::<Self>)
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

impl Leaf for Controller {
    const WANTED: &'static str = "quantile, aimd or fixed";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|controller| controller.as_str() == name)
            .ok_or_else(|| unknown("controller", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for Unit {
    const WANTED: &'static str = "row or request";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|unit| unit.as_str() == name)
            .ok_or_else(|| unknown("unit", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for Bypass {
    const WANTED: &'static str = "auto or never";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|bypass| bypass.as_str() == name)
            .ok_or_else(|| unknown("way to bypass", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for FilePath {
    const WANTED: &'static str = "the path of a file";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match text::<Self>(scalar)? {
            "" => Err(needs::<Self>()),
            path if path.contains('\0') => Err(needs::<Self>()),
            path => Ok(Self(path.into())),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl Leaf for ClientAuth {
    const WANTED: &'static str = "required or optional";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match text::<Self>(scalar)? {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            other => {
                let known = ["required", "optional"].into_iter();
                Err(unknown("way with clients", other, known))
            }
        }
    }

    fn schema() -> Json {
        json!({ "enum": ["required", "optional"] })
    }
}

impl Leaf for ServerName {
    const WANTED: &'static str = "a host's name or an IP address";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = pki_types::ServerName::try_from(text::<Self>(scalar)?);
        name.map(|name| Self(name.to_owned()))
            .map_err(|_| needs::<Self>())
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl<T: Leaf> Leaf for Perhaps<T> {
    const WANTED: &'static str = T::WANTED;

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        Ok(Self(T::parse(scalar)))
    }

    fn schema() -> Json {
        <T as Leaf>::schema()
    }
}

impl Leaf for Fraction {
    const WANTED: &'static str = "a number from 0 to 1, like 0.05";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let share = number(scalar).filter(|share| (0. ..=1.).contains(share));
        share.map(Self).ok_or_else(needs::<Self>)
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

impl Leaf for Weight {
    const WANTED: &'static str = "a number, at least 0, like 9";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let weight = number(scalar).filter(|weight| (0. ..=MOST).contains(weight));
        weight.map(Self).ok_or_else(needs::<Self>)
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": MOST })
    }
}

impl Leaf for Positive {
    const WANTED: &'static str = "a number of more than 0, like 0.2";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let value = number(scalar).filter(|value| (LEAST..=MOST).contains(value));
        value.map(Self).ok_or_else(needs::<Self>)
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": LEAST, "maximum": MOST })
    }
}

impl Leaf for Shadow {
    const WANTED: &'static str = "true, false or a number of more than 0 and at most 1, like 0.1";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match scalar.boolean() {
            Some(all) => Ok(Self(all.then_some(1.))),
            None => {
                let share = number(scalar).filter(|share| *share > 0. && *share <= 1.);
                share.map(Some).map(Self).ok_or_else(needs::<Self>)
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": ["number", "boolean"], "exclusiveMinimum": 0, "maximum": 1 })
    }
}

impl Leaf for FailureLoss {
    const WANTED: &'static str = "a number from 0 to 1, or ignore";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        match scalar.text.as_str() {
            "ignore" => Ok(Self(None)),
            _ => <Fraction as Leaf>::parse(scalar)
                .map(|loss| Self(Some(loss.0)))
                .map_err(|_| needs::<Self>()),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [<Fraction as Leaf>::schema(), { "const": "ignore" }] })
    }
}

impl Leaf for Policy {
    const WANTED: &'static str = "a policy, like exp3";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::USUAL.map(Self::as_str);
        Self::USUAL
            .into_iter()
            .find(|policy| policy.as_str() == name)
            .ok_or_else(|| unknown("policy", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::USUAL.map(Self::as_str) })
    }
}

impl LossKind {
    pub(super) const ALL: [Self; 4] = [Self::ZeroOne, Self::Absolute, Self::Squared, Self::Log];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ZeroOne => "zero-one",
            Self::Absolute => "absolute",
            Self::Squared => "squared",
            Self::Log => "log",
        }
    }
}

impl Leaf for LossKind {
    const WANTED: &'static str = "a loss, like zero-one";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let name = text::<Self>(scalar)?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|loss| loss.as_str() == name)
            .ok_or_else(|| unknown("loss", name, known.into_iter()))
    }

    fn schema() -> Json {
        json!({ "enum": Self::ALL.map(Self::as_str) })
    }
}

impl Leaf for Value {
    const WANTED: &'static str = "a number, true, false or text";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        if let Some(value) = scalar.boolean() {
            return Ok(Self::Bool(value));
        }
        if !scalar.is_number() {
            return Ok(Self::from(scalar.text.as_str()));
        }
        if let Ok(whole) = scalar.text.parse::<i64>() {
            return Ok(whole.into());
        }
        let digits = scalar.text.trim_start_matches(['+', '-']);
        let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
        // A whole number that is cut to what a floating one can hold is another number.
        let value = number(scalar).filter(|_| !whole);
        value.map(Self::Number).ok_or_else(|| {
            format!(
                "{}; no whole number of more than 64 bits, and none that is not finite",
                needs::<Self>()
            )
        })
    }

    fn schema() -> Json {
        json!({ "type": ["number", "boolean", "string"] })
    }
}

impl Leaf for RedisUrl {
    const WANTED: &'static str = "a URL like redis://127.0.0.1:6379/0";

    fn parse(scalar: &Scalar) -> Result<Self, String> {
        let message = |message: String| format!("{}; {message}", needs::<Self>());
        text::<Self>(scalar)?.parse().map_err(message)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^rediss?([+](sentinel|cluster))?://[^?# ]+$" })
    }
}

/// A finite number.
fn number(scalar: &Scalar) -> Option<f64> {
    let number: f64 = scalar.is_number().then(|| scalar.text.parse().ok())??;
    // Of two zeros the one without a sign, which is shown as it is written.
    number.is_finite().then_some(number + 0.)
}

/// The text of a scalar that YAML does not take for something else.
fn text<T: Leaf>(scalar: &Scalar) -> Result<&str, String> {
    match scalar {
        scalar if scalar.is_number() => Err(format!(
            "needs {}; this is a number, put it in quotes",
            T::WANTED
        )),
        scalar if scalar.boolean().is_some() => Err(format!(
            "needs {}; this is a boolean, put it in quotes",
            T::WANTED
        )),
        scalar => Ok(&scalar.text),
    }
}

fn needs<T: Leaf>() -> String {
    format!("needs {}", T::WANTED)
}

/// The least that is told from nothing.
const LEAST: f64 = 1e-9;
/// The most that is not a slip, and that sums of are finite.
const MOST: f64 = 1e9;
