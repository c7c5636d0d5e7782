use proptest::prelude::*;

use super::*;

fn line(kind: Kind, req: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Line::new(kind, req.as_bytes(), usize::MAX)
        .unwrap()
        .push_to(&mut out);
    out
}

/// A line as another writer might write it.
fn with_crc(body: &str) -> String {
    format!(
        r#"{body},"crc":"{:08x}"}}"#,
        crc::update(0, body.as_bytes())
    )
}

fn record(kind: Kind, req: &str, checked: bool) -> Result<Record<'_>, Fault> {
    Ok(Record { kind, req, checked })
}

#[test]
fn a_line_is_the_documented_bytes_with_the_checksum_that_zlib_computes() {
    let req = r#"{"start":{"project_id":"my-team/my-app","id":"0198"}}"#;
    let documented = concat!(
        r#"{"type":"call_start","#,
        r#""req":{"start":{"project_id":"my-team/my-app","id":"0198"}},"#,
        r#""crc":"de9674f1"}"#,
        "\n"
    );
    assert_eq!(line(Kind::CallStart, req), documented.as_bytes());
}

#[test]
fn every_kind_comes_back_as_itself() {
    for kind in Kind::ALL {
        let written = line(kind, r#"{"a":1}"#);
        assert_eq!(parse(&written), record(kind, r#"{"a":1}"#, true));
        assert_eq!(prefix(kind), format!(r#"{{"type":"{kind}","req":"#));
    }
}

#[test]
fn a_kind_goes_by_its_name_and_only_the_halves_of_a_call_are_calls() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse::<Kind>().unwrap(), kind);
        assert_eq!(kind.is_call(), kind.as_str().starts_with("call_"));
    }
    assert!("call".parse::<Kind>().unwrap_err().is_config());
}

#[test]
fn the_length_is_known_before_the_line_is_built() {
    let line = Line::new(Kind::ObjCreate, br#" {"a": 1} "#, 1000).unwrap();
    let mut out = b"before".to_vec();
    line.push_to(&mut out);
    assert_eq!(out.len(), 6 + line.len());
    assert!(out.ends_with(b"\n"));
}

#[test]
fn a_record_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let req = r#"{"a":"bcd"}"#;
    let len = line(Kind::CallEnd, req).len();
    assert!(Line::new(Kind::CallEnd, req.as_bytes(), len).is_ok());
    let error = Line::new(Kind::CallEnd, req.as_bytes(), len - 1).unwrap_err();
    assert!(error.is_record());
    let message = error.to_string();
    assert!(message.contains(&format!("{len} bytes")), "{message}");
    assert!(
        message.contains(&format!("limit is {}", len - 1)),
        "{message}"
    );
}

#[test]
fn what_is_not_an_object_is_refused_by_name() {
    for req in ["[1]", "1", "null", "\"{\"", ""] {
        let error = Line::new(Kind::CallEnd, req.as_bytes(), 1000).unwrap_err();
        assert!(error.is_record(), "{req}");
    }
}

#[test]
fn pretty_printed_json_takes_one_line() {
    let pretty = [
        ("{\n \"a\": \"\\n\"\n}\n", "{  \"a\": \"\\n\" }"),
        ("{\r \"a\": \"\\r\"\r}\r", "{  \"a\": \"\\r\" }"),
        ("\r\n{\r\n\"a\": 1}\r\n", "{  \"a\": 1}"),
    ];
    for (req, on_one_line) in pretty {
        let written = line(Kind::CallStart, req);
        assert_eq!(parse(&written), record(Kind::CallStart, on_one_line, true));
        let breaks = written.iter().filter(|byte| matches!(byte, b'\n' | b'\r'));
        assert_eq!(breaks.count(), 1);
    }
}

#[test]
fn json_on_one_line_is_not_copied() {
    let line = Line::new(Kind::CallStart, br#"{"a": 1}"#, 1000).unwrap();
    assert!(matches!(line.req, Cow::Borrowed(_)));
}

#[test]
fn a_line_of_the_python_client_is_a_record() {
    let text = r#"{"type": "call_end", "req": {"end": {"id": "x"}}}"#;
    let expected = record(Kind::CallEnd, r#"{"end": {"id": "x"}}"#, false);
    assert_eq!(parse(text.as_bytes()), expected);
    assert_eq!(parse(format!(" \t{text} \r\n").as_bytes()), expected);
}

#[test]
fn order_and_further_keys_do_not_matter_and_the_last_of_two_counts() {
    let text =
        r#"{"v":[1],"req":{"a":1},"type":"x","n":null,"req":{"a":2},"type":"call\u005fend"}"#;
    assert_eq!(
        parse(text.as_bytes()),
        record(Kind::CallEnd, r#"{"a":2}"#, false)
    );
}

#[test]
fn another_writers_line_with_a_matching_checksum_counts_as_checked() {
    let other_order = with_crc(r#"{"req":{"a":1},"type":"call_end""#);
    assert_eq!(
        parse(other_order.as_bytes()),
        record(Kind::CallEnd, r#"{"a":1}"#, true)
    );
    let further_key = with_crc(r#"{"type":"call_end","req":{"a":1},"at":5"#);
    assert_eq!(
        parse(further_key.as_bytes()),
        record(Kind::CallEnd, r#"{"a":1}"#, true)
    );
}

#[test]
fn the_request_keeps_its_bytes_whatever_a_parser_would_make_of_them() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let requests = [
        r#"{"n":123456789012345678901234567890.10e+9999}"#,
        r#"{"lone":"\ud800","pair":"\ud83d\ude00","key \udfff":1}"#,
        r#"{ "b" : 1 , "a":"\/\u0041", "b":-0.0 }"#,
        "{}",
        &deep,
    ];
    for req in requests {
        let start = &req[..req.len().min(60)];
        let own = line(Kind::CallStart, req);
        assert_eq!(parse(&own), record(Kind::CallStart, req, true), "{start}");
        let python = format!(r#"{{"type": "call_start", "req": {req}}}"#);
        assert_eq!(
            parse(python.as_bytes()),
            record(Kind::CallStart, req, false),
            "{start}"
        );
        let checked = with_crc(&format!(r#"{{"req":{req},"type":"call_start""#));
        assert_eq!(
            parse(checked.as_bytes()),
            record(Kind::CallStart, req, true),
            "{start}"
        );
    }
}

#[test]
fn a_request_may_hold_a_key_named_crc() {
    let req = r#"{"a":1,"crc":"00000000"}"#;
    assert_eq!(
        parse(&line(Kind::CallEnd, req)),
        record(Kind::CallEnd, req, true)
    );
    let python = format!(r#"{{"type":"call_end","req":{req}}}"#);
    assert_eq!(parse(python.as_bytes()), record(Kind::CallEnd, req, false));
}

#[test]
fn a_wrong_checksum_is_a_fault_that_shows_both() {
    let text = r#"{"type":"call_end","req":{},"crc":"DEADBEEF"}"#;
    let computed = crc::update(0, br#"{"type":"call_end","req":{}"#);
    let fault = parse(text.as_bytes()).unwrap_err();
    assert_eq!(
        fault,
        Fault::Checksum {
            stored: "DEADBEEF".into(),
            computed
        }
    );
    let shown = fault.to_string();
    assert!(
        shown.contains("DEADBEEF") && shown.contains(&format!("{computed:08x}")),
        "{shown}"
    );
}

#[test]
fn the_digits_of_a_checksum_are_lower_case() {
    let text = String::from_utf8(line(Kind::CallEnd, r#"{"a":1}"#)).unwrap();
    let (body, crc) = text.trim_end().split_once(TAIL_START).unwrap();
    let shouted = format!("{body}{TAIL_START}{}{TAIL_END}", crc[..8].to_uppercase());
    assert_ne!(shouted, text.trim_end());
    assert!(matches!(
        parse(shouted.as_bytes()),
        Err(Fault::Checksum { .. })
    ));
}

#[test]
fn each_way_not_to_be_a_record_has_its_own_reason() {
    let not_json = |line: &[u8]| matches!(parse(line), Err(Fault::NotJson(_)));
    assert!(not_json(b""));
    assert!(not_json(b"hello"));
    assert!(not_json(br#"{"type":"call_end","req":{}"#));
    assert!(not_json(br#"{"type":"call_end","req":{"a":NaN}}"#));
    assert!(not_json(br#"{"type":"call_end","req":{}}{}"#));
    let fault = |line: &[u8]| parse(line).unwrap_err();
    assert_eq!(fault(b"[{}]"), Fault::NotAnObject);
    assert_eq!(fault(b"{}"), Fault::NoType);
    assert_eq!(fault(br#"{"type":5,"req":{}}"#), Fault::NoType);
    assert_eq!(fault(br#"{"type":"call_end"}"#), Fault::NoRequest);
    assert_eq!(
        fault(br#"{"type":"call_end","req":"{}"}"#),
        Fault::NoRequest
    );
    assert_eq!(
        fault(b"{\"type\":\"call_end\",\"req\":{\"\xff\":1}}"),
        Fault::NotUtf8
    );
}

#[test]
fn an_unknown_type_is_named_but_not_at_any_length() {
    let name = |json: &str| match parse(format!(r#"{{"type":{json},"req":{{}}}}"#).as_bytes()) {
        Err(Fault::UnknownType(name)) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(r#""feedback_create""#), "feedback_create");
    assert_eq!(name(r#""\ud800""#), r#""\ud800""#);
    assert_eq!(name(&format!("{:?}", "ä".repeat(64))), "ä".repeat(64));
    assert_eq!(
        name(&format!("{:?}", "ä".repeat(65))),
        format!("{}…", "ä".repeat(63))
    );
}

#[test]
fn bytes_that_are_not_utf8_are_a_fault_even_under_a_matching_checksum() {
    let body = b"{\"type\":\"call_end\",\"req\":{\"\xff\":1}";
    let mut text = body.to_vec();
    text.extend(format!(r#","crc":"{:08x}"}}"#, crc::update(0, body)).into_bytes());
    assert_eq!(parse(&text), Err(Fault::NotUtf8));
}

proptest! {
    #[test]
    fn what_is_written_is_read(text in any::<String>(), number in any::<f64>()) {
        let req = serde_json::json!({ "text": text, "number": number, &text: [&text] }).to_string();
        for kind in Kind::ALL {
            let line = line(kind, &req);
            prop_assert_eq!(parse(&line), record(kind, &req, true));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&bytes);
        let text = format!("{{\"type\":\"call_end\",\"req\":{}}}", String::from_utf8_lossy(&bytes));
        let _ = parse(text.as_bytes());
    }
}
