use bytes::Bytes;
use outrigger_filters::inference::{Datatype, Form, Parameters, Payload, Shape, Tensor};
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::{walk::MAX_RANK, *};

// What is read and written, as small drivers.

fn read(text: &str, datatype: Datatype) -> Result<Parsed, Malformed> {
    parse(text.as_bytes(), datatype, Strings::Plain)
}

fn bytes_of(text: &str, datatype: Datatype) -> Vec<u8> {
    read(text, datatype).expect("it is well formed").data
}

fn flat_text(datatype: Datatype, data: &[u8]) -> String {
    let mut out = Vec::new();
    write_flat(datatype, data, Strings::Plain, &mut out).expect("it can be written");
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn shape(dimensions: &[i64]) -> Shape {
    Shape::new(dimensions.iter().copied())
}

fn tensor(datatype: Datatype, dimensions: &[i64], data: Vec<u8>) -> Tensor {
    Tensor {
        name: "x".into(),
        datatype,
        shape: shape(dimensions),
        parameters: Parameters::default(),
        data: Bytes::from(data).into(),
        form: Form::Raw,
        unknown: Payload::new(),
    }
}

fn converted(tensor: &Tensor, form: Form) -> Tensor {
    Tensor {
        data: convert(tensor, form, Strings::Plain).expect("it can be converted"),
        form,
        ..tensor.clone()
    }
}

fn text_of(tensor: &Tensor) -> String {
    String::from_utf8(tensor.data.to_bytes().to_vec()).expect("JSON is UTF-8")
}

/// Bytes that say a tensor of a datatype, and nothing that JSON cannot carry.
fn contents(datatype: Datatype, elements: usize, seed: &[u8]) -> Vec<u8> {
    let mut seed = seed.iter().copied().cycle();
    let mut take = |count: usize| -> Vec<u8> { seed.by_ref().take(count).collect() };
    let mut data = Vec::new();
    for _ in 0..elements {
        match datatype {
            Datatype::Bool => data.push(take(1)[0] & 1),
            Datatype::Bytes => {
                let len = usize::from(take(1)[0] % 9);
                let text = String::from_utf8_lossy(&take(len)).into_owned();
                data.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
                data.extend_from_slice(text.as_bytes());
            }
            Datatype::Fp16 => {
                let mut bits = take(2);
                bits[1] &= 0xfb;
                data.extend(bits);
            }
            Datatype::Bf16 => {
                let mut bits = take(2);
                bits[1] &= 0xbf;
                data.extend(bits);
            }
            Datatype::Fp32 => {
                let bits = f32::from_le_bytes(take(4).try_into().unwrap());
                let number = if bits.is_nan() { f32::NAN } else { bits };
                data.extend(number.to_le_bytes());
            }
            Datatype::Fp64 => {
                let bits = f64::from_le_bytes(take(8).try_into().unwrap());
                let number = if bits.is_nan() { f64::NAN } else { bits };
                data.extend(number.to_le_bytes());
            }
            _ => data.extend(take(datatype.size().unwrap())),
        }
    }
    data
}

fn datatypes() -> impl Strategy<Value = Datatype> {
    prop::sample::select(&Datatype::ALL[..])
}

/// Decimal numbers of every length, near and far from what floats can hold.
fn decimals() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?",
        "-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,9})?",
        "-?[1-9]\\.[0-9]{16,17}([eE][+-]?[0-9]{1,3})?",
        any::<f64>().prop_map(|number| format!("{number:e}")),
        any::<f32>().prop_map(|number| format!("{number:?}")),
        // Between two neighbours, exactly: the even one of them is right.
        any::<f32>().prop_map(|number| {
            let next = f64::from(f32::from_bits(number.to_bits() + 1));
            format!("{:e}", (f64::from(number) + next) / 2.0)
        }),
        (any::<u64>(), -12..12_i32).prop_map(|(digits, power)| format!("{digits}e{power}")),
    ]
    .prop_filter("words are not decimals", |text| {
        text.trim_start_matches('-')
            .starts_with(|first: char| first.is_ascii_digit())
    })
}

#[test]
fn numbers_that_are_none_are_words() {
    let text = "[NaN,-NaN,Infinity,-Infinity,Inf,-Inf]";
    let read = bytes_of(text, Datatype::Fp32);
    let (numbers, _) = read.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    assert!(numbers[0].is_nan() && numbers[0].is_sign_positive());
    assert!(numbers[1].is_nan() && numbers[1].is_sign_negative());
    let (inf, minus) = (f32::INFINITY, f32::NEG_INFINITY);
    assert_eq!(numbers[2..], [inf, minus, inf, minus]);
    for datatype in [
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
    ] {
        let read = bytes_of(text, datatype);
        let words = "NaN,NaN,Infinity,-Infinity,Infinity,-Infinity";
        assert_eq!(flat_text(datatype, &read), words);
    }
}

#[test]
fn what_a_datatype_cannot_hold_is_told_by_its_place() {
    for (datatype, text, index) in [
        (Datatype::Uint8, "[0,255,256]", 2),
        (Datatype::Uint8, "[-1]", 0),
        (Datatype::Int8, "[[-128],[127],[-129]]", 2),
        (
            Datatype::Int64,
            "[9223372036854775807,9223372036854775808]",
            1,
        ),
        (
            Datatype::Uint64,
            "[18446744073709551615,18446744073709551616]",
            1,
        ),
        (Datatype::Int32, "[1,1.0]", 1),
        (Datatype::Int32, "[1,2,1e3]", 2),
        (Datatype::Int32, "[NaN]", 0),
        (Datatype::Fp32, "[1,3.5e38]", 1),
        (Datatype::Fp64, "[1e400]", 0),
        (Datatype::Fp16, "[65519,65520]", 1),
        (Datatype::Fp32, "[1,\"2\"]", 1),
        (Datatype::Fp32, "[1,null]", 1),
        (Datatype::Fp32, "[true]", 0),
        (Datatype::Bool, "[true,1]", 1),
        (Datatype::Bytes, "[\"a\",1]", 1),
        (Datatype::Bytes, "[\"a\",{\"b64\":\"AA==\"}]", 1),
    ] {
        let told = Malformed::Element { index, datatype };
        assert_eq!(read(text, datatype), Err(told), "{text}");
    }
}

#[test]
fn whole_numbers_are_exact_to_the_last() {
    let text = "[-9223372036854775808,9223372036854775807,-0,0]";
    let read = bytes_of(text, Datatype::Int64);
    assert_eq!(
        flat_text(Datatype::Int64, &read),
        "-9223372036854775808,9223372036854775807,0,0"
    );
    let read = bytes_of("18446744073709551615", Datatype::Uint64);
    assert_eq!(read, u64::MAX.to_le_bytes());
}

#[test]
fn halves_are_rounded_to_the_even_one() {
    for (text, bits) in [
        ("1", 0x3c00_u16),
        ("-0.0", 0x8000),
        ("65504", 0x7bff),
        ("65519.99", 0x7bff),
        ("1.00048828125", 0x3c00),
        ("1.00146484375", 0x3c02),
        ("5.9604645e-8", 0x0001),
        ("2.9802322387695312e-8", 0x0000),
        ("6.103515625e-5", 0x0400),
        ("6.1e-5", 0x0400 - 1),
        ("1e-300", 0),
    ] {
        assert_eq!(bytes_of(text, Datatype::Fp16), bits.to_le_bytes(), "{text}");
    }
    for (text, bits) in [
        ("1", 0x3f80_u16),
        ("3.3895314e38", 0x7f7f),
        ("1.00390625", 0x3f80),
    ] {
        assert_eq!(bytes_of(text, Datatype::Bf16), bits.to_le_bytes(), "{text}");
    }
}

#[test]
fn each_half_survives_its_text() {
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        let data: Vec<u8> = (0..=u16::MAX)
            .filter(|bits| match datatype {
                Datatype::Fp16 => bits & 0x7fff <= 0x7c00,
                _ => bits & 0x7fff <= 0x7f80,
            })
            .flat_map(u16::to_le_bytes)
            .collect();
        let text = format!("[{}]", flat_text(datatype, &data));
        assert_eq!(bytes_of(&text, datatype), data);
    }
}

#[test]
fn what_is_no_number_is_no_number() {
    for text in [
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "1.5.2",
        "--1",
        "0x1",
        "1_0",
        "-Nan",
        "nan",
        "Infin",
        "1 2",
        "1,",
        "",
        "[1,]",
        "[,1]",
        "[1",
        "1]",
        "[1]]",
        "[1}",
        "NaN0",
        "[1 2]",
        "12345678901.",
        "00000000001",
    ] {
        let message = Bytes::copy_from_slice(text.as_bytes());
        let mut reader = Reader::new(&message);
        let parsed = reader.parse(Datatype::Fp32, Strings::Plain);
        assert!(parsed.is_err() || reader.end().is_err(), "{text}");
        let mut reader = Reader::new(&message);
        assert!(reader.scan().is_err() || reader.end().is_err(), "{text}");
        let mut reader = Reader::new(&message);
        assert!(reader.value().is_err() || reader.end().is_err(), "{text}");
    }
}

#[test]
fn shapes_are_found_with_the_kind_of_the_elements() {
    for (text, dimensions, leaf) in [
        ("5", &[][..], Leaf::Integer),
        ("[]", &[0], Leaf::None),
        (" [ [ ] , [ ] ] ", &[2, 0], Leaf::None),
        ("[[1, 2],\n[3, -4]]", &[2, 2], Leaf::Integer),
        ("[[1, 2],[3, 4e0]]", &[2, 2], Leaf::Number),
        ("[[[NaN]],[[1]]]", &[2, 1, 1], Leaf::Number),
        ("[true,false]", &[2], Leaf::Bool),
        (r#"["[",",\"]"]"#, &[2], Leaf::String),
        (r#"["", {"b64" : "AA=="}]"#, &[2], Leaf::Base64),
    ] {
        let (found, len) = scan(text.as_bytes()).expect(text);
        assert_eq!(found.shape.dimensions(), dimensions, "{text}");
        assert_eq!(found.leaf, leaf, "{text}");
        assert_eq!(len, text.trim_end().len());
    }
    for (text, fault) in [
        ("[[1],2]", Malformed::Irregular),
        ("[1,[2]]", Malformed::Irregular),
        ("[[1],[2,3]]", Malformed::Irregular),
        ("[[],[1]]", Malformed::Irregular),
        ("[[],1]", Malformed::Irregular),
        ("[[[]],[1]]", Malformed::Irregular),
        ("[[[]],[]]", Malformed::Irregular),
        ("[1,true]", Malformed::Mixed),
        ("[1,\"a\"]", Malformed::Mixed),
    ] {
        assert_eq!(scan(text.as_bytes()), Err(fault), "{text}");
    }
    let expected = "an object with the one member b64";
    let told = Err(Malformed::Syntax { at: 7, expected });
    assert_eq!(scan(br#"[{"b32":"A"}]"#), told);
}

#[test]
fn depth_is_bounded() {
    let deep = |depth: usize| "[".repeat(depth) + "1" + &"]".repeat(depth);
    assert!(scan(deep(MAX_RANK).as_bytes()).is_ok());
    assert_eq!(scan(deep(MAX_RANK + 1).as_bytes()), Err(Malformed::Deep));
    for (depth, read) in [(128, true), (129, false), (1_000_000, false)] {
        let message = Bytes::from(deep(depth));
        assert_eq!(Reader::new(&message).value().is_ok(), read);
    }
}

#[test]
fn strings_say_what_their_escapes_say() {
    for (text, said) in [
        (r#""\u00e4\ud83d\ude00\n\/\"\\""#, "ä😀\n/\"\\"),
        (
            "\"plain ä text of more than a word\"",
            "plain ä text of more than a word",
        ),
        (r#""12345678\b90\f\r\t""#, "12345678\u{8}90\u{c}\r\t"),
    ] {
        let message = Bytes::copy_from_slice(text.as_bytes());
        assert_eq!(Reader::new(&message).string().unwrap(), said);
    }
    for text in [
        &b"\"\xff\""[..],
        b"\"abcdefgh\xe4\"",
        b"\"\\ud800\"",
        b"\"\\ud800\\u0041\"",
        b"\"\\udc00\"",
        b"\"\\u12\"",
        b"\"\\x\"",
        b"\"\n\"",
        b"\"a",
        b"\"\\",
        b"\"abcdefg\\\"",
        b"\"\xed\xa0\x80\"",
    ] {
        let message = Bytes::from_static(text);
        assert!(Reader::new(&message).string().is_err(), "{text:?}");
        assert!(Reader::new(&message).value().is_err(), "{text:?}");
    }
}

#[test]
fn names_and_texts_are_slices_of_the_message() {
    let message = Bytes::from_static(br#"{"a": "bc"}"#);
    let mut reader = Reader::new(&message);
    reader.object().unwrap();
    let name = reader.member().unwrap().unwrap();
    assert_eq!(name.as_ptr(), message[2..].as_ptr());
    let text = reader.string().unwrap();
    assert_eq!(text.as_ptr(), message[7..].as_ptr());
    assert_eq!(reader.member().unwrap(), None);
    reader.end().unwrap();
}

#[test]
fn bytes_that_are_no_text_are_base64_where_that_is_understood() {
    let data = [2, 0, 0, 0, 0xff, 0xfe, 1, 0, 0, 0, b'a'];
    let write = |strings| {
        let mut out = Vec::new();
        write_flat(Datatype::Bytes, &data, strings, &mut out)
            .map(|()| String::from_utf8(out).unwrap())
    };
    assert_eq!(write(Strings::Plain), Err(Malformed::NotText { index: 0 }));
    let either = write(Strings::Either).unwrap();
    assert_eq!(either, r#"{"b64":"//4="},"a""#);
    let all = write(Strings::Base64).unwrap();
    assert_eq!(all, r#"{"b64":"//4="},{"b64":"YQ=="}"#);
    for text in [either, all, r#"{"b64":"\/\/4"},"\u0061""#.to_owned()] {
        let text = format!("[{text}]");
        let parsed = parse(text.as_bytes(), Datatype::Bytes, Strings::Either).unwrap();
        assert_eq!(parsed.data, data);
    }
}

#[test]
fn elements_keep_their_text_when_brackets_move() {
    let text = "[1.50, 2e0],[ NaN,-0]";
    let mut rows = tensor(Datatype::Fp32, &[2, 2], text.into());
    rows.form = Form::Rows;
    let flat = converted(&rows, Form::Flat);
    assert_eq!(text_of(&flat), "1.50, 2e0, NaN,-0");
    assert_eq!(
        text_of(&converted(&flat, Form::Rows)),
        "[1.50, 2e0],[ NaN,-0]"
    );
}

#[test]
fn text_of_another_shape_is_not_read() {
    let mut rows = tensor(Datatype::Int32, &[2, 2], b"[1,2,3,4]".to_vec());
    for (text, form) in [
        ("[1,2,3,4]", Form::Rows),
        ("[1,2],[3]", Form::Rows),
        ("1,2,3", Form::Flat),
        ("1,2,3,4,5", Form::Flat),
    ] {
        rows.form = form;
        rows.data = Bytes::from_static(text.as_bytes()).into();
        assert!(convert(&rows, Form::Raw, Strings::Plain).is_err(), "{text}");
    }
}

#[test]
fn no_more_room_is_made_than_elements_take() {
    let text = format!("[[1],{}", " ".repeat(1 << 20));
    let read = super::parse(&text.as_bytes()[1..], Datatype::Fp64, Strings::Plain).unwrap();
    assert!(read.data.capacity() <= 16);
    let read = super::parse(b"[\"a\"]", Datatype::Bytes, Strings::Plain).unwrap();
    assert!(read.data.capacity() <= 16);
    let message = Bytes::from("[1,2,3]");
    let read = Reader::new(&message)
        .parse_expected(Datatype::Fp64, Strings::Plain, usize::MAX)
        .unwrap();
    assert!(read.data.capacity() <= 48);
}

#[test]
fn nothing_is_written_without_contents_that_pay_for_it() {
    let empty = tensor(Datatype::Fp32, &[i64::MAX, 0], Vec::new());
    let told = convert(&empty, Form::Rows, Strings::Plain);
    assert_eq!(told, Err(Malformed::TooLong));
    let few = tensor(Datatype::Fp32, &[3, 0, 2], Vec::new());
    assert_eq!(text_of(&converted(&few, Form::Rows)), "[],[],[]");
    assert_eq!(text_of(&converted(&few, Form::Flat)), "");
}

proptest! {
    #[test]
    fn decimals_are_read_as_the_standard_library_reads_them(text in decimals()) {
        let wide: f64 = text.parse().unwrap();
        let read = read(&text, Datatype::Fp64).map(|read| read.data);
        if wide.is_finite() {
            prop_assert_eq!(read.unwrap(), wide.to_le_bytes(), "{}", text);
        } else {
            prop_assert!(read.is_err());
        }
        let single: f32 = text.parse().unwrap();
        let read = super::parse(text.as_bytes(), Datatype::Fp32, Strings::Plain);
        if single.is_finite() {
            prop_assert_eq!(read.unwrap().data, single.to_le_bytes(), "{}", text);
        } else {
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn digits_around_the_end_of_the_mantissa_are_rounded_as_by_the_standard_library(
        beyond in -3_000_000_000_000_000_i128..3_000_000_000_000_000,
        few in -300_i128..300,
        fraction in 9_usize..=18,
    ) {
        for beyond in [beyond, few] {
            let mut text = ((1_i128 << 64) + beyond).to_string();
            text.insert(text.len() - fraction, '.');
            // Only between others is a number read the short way, for it has a comma behind it.
            let list = format!("[{}{text}{}]", "1.0,".repeat(8), ",1.0".repeat(24));
            let read = bytes_of(&list, Datatype::Fp64);
            let number: f64 = text.parse().unwrap();
            prop_assert_eq!(&read[64..72], number.to_le_bytes(), "{}", text);
            let read = bytes_of(&list, Datatype::Fp32);
            let number: f32 = text.parse().unwrap();
            prop_assert_eq!(&read[32..36], number.to_le_bytes(), "{}", text);
        }
    }

    #[test]
    fn floats_are_read_back_to_the_bit(wide: f64, single: f32) {
        let data = wide.to_le_bytes();
        prop_assert_eq!(bytes_of(&flat_text(Datatype::Fp64, &data), Datatype::Fp64), data);
        let data = single.to_le_bytes();
        prop_assert_eq!(bytes_of(&flat_text(Datatype::Fp32, &data), Datatype::Fp32), data);
    }

    #[test]
    fn a_tensor_survives_each_of_its_forms(
        datatype in datatypes(),
        dimensions in vec(0_i64..4, 0..4),
        seed in vec(any::<u8>(), 1..200),
    ) {
        let elements = shape(&dimensions).elements().unwrap();
        let raw = tensor(datatype, &dimensions, contents(datatype, elements, &seed));
        let flat = converted(&raw, Form::Flat);
        let rows = converted(&raw, Form::Rows);
        for text in [&flat, &rows] {
            let again = converted(text, Form::Raw);
            prop_assert_eq!(again.data.to_bytes(), raw.data.to_bytes(), "{}", text_of(text));
        }
        prop_assert_eq!(text_of(&converted(&rows, Form::Flat)), text_of(&flat));
        prop_assert_eq!(text_of(&converted(&flat, Form::Rows)), text_of(&rows));
        if !dimensions.is_empty() {
            let whole = format!("[{}]", text_of(&rows));
            let (found, _) = scan(whole.as_bytes()).unwrap();
            prop_assert!(agree(&raw.shape, &found.shape), "{:?} {:?}", raw.shape, found);
            prop_assert!(found.leaf.suits(datatype, Strings::Plain));
            let parsed = read(&whole, datatype).unwrap();
            prop_assert_eq!(parsed.data, raw.data.to_bytes());
            prop_assert_eq!(parsed.shape, found.shape);
        }
    }

    #[test]
    fn strings_are_read_as_they_were_written(text: String) {
        let mut out = Vec::new();
        put_string(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), &*text);
        let other = serde_json::to_vec(&Value::from(text.clone())).unwrap();
        for written in [out, other] {
            let message = Bytes::from(written);
            prop_assert_eq!(Reader::new(&message).string().unwrap(), &*text);
        }
    }

    #[test]
    fn what_others_read_is_read_and_what_they_refuse_is_refused(
        text in "[\\[\\]{},:\"0-3eE+.\\-tn \\\\u]{0,12}|(\\[|\\{\"a\":|1|true|null|\"\\\\n\"|,|\\]|\\}| ){0,9}",
    ) {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let message = Bytes::from(text.clone());
        let mut reader = Reader::new(&message);
        let ours = reader.value().and_then(|_| reader.end()).is_ok();
        prop_assert_eq!(ours, theirs, "{}", text);
    }

    #[test]
    fn a_scan_and_a_parse_agree(
        text in "(\\[|\\]|,|1|-2.5|3e1|true|\"a\"|NaN| ){0,12}",
        datatype in datatypes(),
    ) {
        let scanned = scan(text.as_bytes());
        match read(&text, datatype) {
            Ok(parsed) => {
                let (found, len) = scanned.unwrap();
                prop_assert_eq!(found.shape, parsed.shape);
                prop_assert_eq!(len, parsed.len);
                prop_assert!(found.leaf.suits(datatype, Strings::Plain));
            }
            Err(Malformed::Element { .. }) => {}
            Err(_) => prop_assert!(scanned.is_err(), "{}", text),
        }
    }

    #[test]
    fn long_lists_are_checked_as_well_as_short_ones(
        numbers in vec("-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", 1..40),
        comma in "( |\n|  )?,( |\n|  )?",
        spoil in prop::option::of((any::<prop::sample::Index>(), "[-+.eE0-9, \\[\\]]")),
    ) {
        let mut text = format!("[{}]", numbers.join(&comma));
        if let Some((index, byte)) = spoil {
            let at = 1 + index.index(text.len() - 1);
            text.replace_range(at..=at, &byte);
        }
        let message = Bytes::from(text.clone());
        let theirs: Result<Vec<&serde_json::value::RawValue>, _> = serde_json::from_str(&text);
        let flat = theirs.ok().filter(|all| all.iter().all(|one| !one.get().starts_with('[')));
        let mut reader = Reader::new(&message);
        let value = reader.value().and_then(|_| reader.end());
        prop_assert_eq!(
            value.is_ok(),
            serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(),
            "{}", text
        );
        let mut reader = Reader::new(&message);
        let scanned = reader.scan().and_then(|found| reader.end().map(|()| found.0));
        let mut reader = Reader::new(&message);
        let parsed = reader.parse(Datatype::Fp64, Strings::Plain)
            .and_then(|parsed| reader.end().map(|()| parsed));
        match flat {
            Some(all) => {
                let scanned = scanned.unwrap();
                prop_assert_eq!(scanned.shape.dimensions(), &[all.len() as i64]);
                let whole = !all.iter().any(|one| one.get().contains(['.', 'e', 'E']));
                let leaf = match (all.is_empty(), whole) {
                    (true, _) => Leaf::None,
                    (false, true) => Leaf::Integer,
                    (false, false) => Leaf::Number,
                };
                prop_assert_eq!(scanned.leaf, leaf, "{}", text);
                let wanted: Vec<f64> =
                    all.iter().map(|one| one.get().parse().unwrap()).collect();
                if wanted.iter().all(|number| number.is_finite()) {
                    let wanted: Vec<u8> = wanted.into_iter().flat_map(f64::to_le_bytes).collect();
                    prop_assert_eq!(parsed.unwrap().data, wanted, "{}", text);
                }
            }
            None => prop_assert!(scanned.is_err() && parsed.is_err() || text.contains("[["), "{}", text),
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..64), datatype in datatypes()) {
        let _ = scan(&bytes);
        let _ = parse(&bytes, datatype, Strings::Either);
        let message = Bytes::from(bytes.clone());
        let _ = Reader::new(&message).value();
        let mut quoted = vec![b'"'];
        quoted.extend(bytes);
        let message = Bytes::from(quoted);
        let _ = Reader::new(&message).string();
    }
}
