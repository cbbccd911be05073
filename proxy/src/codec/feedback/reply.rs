use bytes::{BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;
use outrigger_filters::select;

use crate::codec::{
    json::put_string,
    protobuf::{Kind, Put as _},
};

/// What a caller is told of its report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Items from which was learned now.
    pub applied: usize,
    /// Items from which was learned before.
    pub duplicates: usize,
    /// All others.
    pub rejected: Vec<Rejection>,
    /// What is known now of the models that were told of.
    pub models: Vec<(ByteString, Standings)>,
}

/// An item that was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which one.
    pub index: usize,
    /// Why, in a word.
    pub code: &'static str,
    /// Why.
    pub reason: String,
}

/// The arms of a model, in the order of the configuration.
pub type Standings = Vec<(ByteString, Standing)>;

/// How an arm stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Its weight among the arms, as the policy sees it.
    pub weight: f64,
    /// The probability with which it is chosen.
    pub probability: f64,
    /// How many losses were told of it.
    pub observations: f64,
    /// Their mean.
    pub loss: Option<f64>,
}

impl From<select::Standing> for Standing {
    fn from(standing: select::Standing) -> Self {
        Self {
            weight: standing.weight,
            probability: standing.probability,
            observations: standing.observations,
            loss: standing.loss,
        }
    }
}

/// Writes a reply in JSON: the arms as `arms` where one model was told of, and otherwise under the
/// models' names as `models`.
pub fn encode_json(reply: &Reply) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"applied\":");
    put_count(reply.applied, &mut out);
    out.extend_from_slice(b",\"duplicates\":");
    put_count(reply.duplicates, &mut out);
    out.extend_from_slice(b",\"rejected\":[");
    put_list(b',', &reply.rejected, &mut out, |rejection, out| {
        out.extend_from_slice(b"{\"index\":");
        put_count(rejection.index, out);
        out.extend_from_slice(b",\"code\":");
        put_string(rejection.code, out);
        out.extend_from_slice(b",\"reason\":");
        put_string(&rejection.reason, out);
        out.push(b'}');
    });
    out.extend_from_slice(b"],");
    match &*reply.models {
        [] => out.extend_from_slice(b"\"arms\":{}"),
        [(model, standings)] => {
            out.extend_from_slice(b"\"model\":");
            put_string(model, &mut out);
            out.extend_from_slice(b",\"arms\":");
            put_standings(standings, &mut out);
        }
        models => {
            out.extend_from_slice(b"\"models\":{");
            put_list(b',', models, &mut out, |(model, standings), out| {
                put_string(model, out);
                out.push(b':');
                put_standings(standings, out);
            });
            out.push(b'}');
        }
    }
    out.push(b'}');
    out.into()
}

fn put_standings(standings: &Standings, out: &mut Vec<u8>) {
    out.push(b'{');
    put_list(b',', standings, out, |(arm, standing), out| {
        put_string(arm, out);
        out.extend_from_slice(b":{\"weight\":");
        put_number(standing.weight, out);
        out.extend_from_slice(b",\"probability\":");
        put_number(standing.probability, out);
        out.extend_from_slice(b",\"observations\":");
        put_number(standing.observations, out);
        out.extend_from_slice(b",\"loss\":");
        match standing.loss {
            Some(loss) => put_number(loss, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    });
    out.push(b'}');
}

fn put_list<T>(between: u8, list: &[T], out: &mut Vec<u8>, put: impl Fn(&T, &mut Vec<u8>)) {
    for (index, one) in list.iter().enumerate() {
        if index > 0 {
            out.push(between);
        }
        put(one, out);
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
}

fn put_number(number: f64, out: &mut Vec<u8>) {
    // Whole numbers as such: there are 12 observations, and not 12.0.
    if number.fract() == 0. && number.abs() < 1e15 {
        out.extend_from_slice(itoa::Buffer::new().format(number as i64).as_bytes());
    } else if number.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Writes a reply as a `ReportResponse`.
pub fn encode_message(reply: &Reply) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    put_uint(1, reply.applied, &mut out);
    put_uint(2, reply.duplicates, &mut out);
    for rejection in &reply.rejected {
        put_nested(3, &mut out, |out| {
            put_uint(1, rejection.index, out);
            out.put_text(2, rejection.code);
            out.put_text(3, &rejection.reason);
        });
    }
    for (model, standings) in &reply.models {
        put_nested(4, &mut out, |out| {
            out.put_text(1, model);
            put_nested(2, out, |out| {
                for (arm, standing) in standings {
                    put_nested(1, out, |out| {
                        out.put_text(1, arm);
                        put_nested(2, out, |out| put_standing(standing, out));
                    });
                }
            });
        });
    }
    out.freeze()
}

fn put_standing(standing: &Standing, out: &mut BytesMut) {
    let fields = [standing.weight, standing.probability, standing.observations];
    for (number, value) in (1..).zip(fields) {
        if value != 0. {
            put_double(number, value, out);
        }
    }
    if let Some(loss) = standing.loss {
        put_double(4, loss, out);
    }
}

fn put_double(number: u32, value: f64, out: &mut BytesMut) {
    out.put_key(number, Kind::Fixed64);
    out.put_f64_le(value);
}

fn put_uint(number: u32, value: usize, out: &mut BytesMut) {
    if value != 0 {
        out.put_key(number, Kind::Varint);
        out.put_varint(value as u64);
    }
}

fn put_nested(number: u32, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let mut nested = BytesMut::new();
    put(&mut nested);
    out.put_head(number, nested.len());
    out.extend_from_slice(&nested);
}
