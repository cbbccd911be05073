//! The small values of the file: how each is written, and what its schema says.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use outrigger_filters::{
    batch::{Cancel, Controller, InFlight, Share},
    cache::{Bypass, Unit},
};
use rustls::pki_types;
use serde_json::{Value as Json, json};

use super::document::Scalar;
use super::read::{Leaf, unknown};
use super::units;
use super::{Endpoint, HttpVersion, Name, Protocol};

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
