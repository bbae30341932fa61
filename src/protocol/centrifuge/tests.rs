use bytes::Bytes;

use super::*;
use crate::protocol::Encoding;

const JSON: Encoding = Encoding::CentrifugeJson;

#[track_caller]
fn check_text(frame: &Bytes, expected: &str) {
    let start = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    assert_eq!(std::str::from_utf8(&frame[start..]).unwrap(), expected);
}

fn body_of(json: &str) -> Payload {
    Payload::Text(json.to_owned())
}

#[track_caller]
fn check_refused(text: &str, reason: &str) {
    let error = decode(text).find_map(Result::err).unwrap_or_else(|| panic!("{text:?} was accepted"));
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn several_commands_share_a_frame() {
    let text = "{\"id\":1,\"connect\":{\"token\":\"t\\n\",\"data\":{\"a\": 1}}}\n\n{\"id\":2,\"subscribe\":{\"channel\":\"r\"}}\n{}";
    let requests: Vec<_> = decode(text).map(Result::unwrap).collect();
    assert_eq!(requests.len(), 3);
    let Command::Connect(hello) = &requests[0].command else { panic!("{requests:?}") };
    assert_eq!((hello.token.as_ref(), hello.data.as_ref()), ("t\n", Some(&body_of("{\"a\": 1}"))));
    assert!(matches!(&requests[1].command, Command::Join { room, .. } if room == "r"));
    assert!(matches!(requests[2].command, Command::Pong));
}

#[test]
fn null_is_data_like_any_other() {
    let text = "{\"id\":1,\"publish\":{\"channel\":\"r\",\"data\":null}}\n{\"id\":2,\"rpc\":{\"data\":null}}";
    let requests: Vec<_> = decode(text).map(Result::unwrap).collect();
    assert!(matches!(&requests[0].command, Command::Publish { payload, .. } if *payload == body_of("null")));
    assert!(matches!(&requests[1].command, Command::Call { data: Some(data), .. } if *data == body_of("null")));
}

#[test]
fn what_is_not_the_protocol_is_refused_with_a_reason() {
    check_refused("", "empty frame");
    check_refused("\n \n", "empty frame");
    check_refused("hello", "expected an object");
    check_refused("[]", "expected");
    check_refused("{\"id\":-1}", "invalid");
    check_refused("{\"id\":1,\"connect\":5}", "invalid type");
    check_refused("{\"id\":1,\"publish\":{\"channel\":\"x\"}}", "without data");
    check_refused("{\"subscribe\":{\"channel\":\"x\"}}", "without id");
    check_refused("{\"what\":{}}", "known name");
    check_refused("{\"id\":1,\"ping\":{}}\n{\"id\":2", "EOF");
}

#[test]
fn a_command_that_nobody_knows_is_unsupported_and_not_silence() {
    let request = decode("{\"id\":1,\"what\":{}}").next().unwrap().unwrap();
    assert!(matches!(request.command, Command::Unsupported));
}

#[test]
fn tokens_are_renewed_for_a_connection_and_for_a_room() {
    let text =
        "{\"id\":1,\"refresh\":{\"token\":\"a.b\"}}\n{\"id\":2,\"sub_refresh\":{\"channel\":\"r\",\"token\":\"c\"}}";
    let requests: Vec<_> = decode(text).map(Result::unwrap).collect();
    assert!(matches!(&requests[0].command, Command::Refresh { token } if token == "a.b"));
    assert!(matches!(&requests[1].command, Command::SubRefresh { room, token } if room == "r" && token == "c"));
    check_refused("{\"refresh\":{\"token\":\"a\"}}", "without id");
    let version = VERSION;
    let refreshed = |ttl| JSON.reply(1, &Reply::Refreshed { connection: "c1", ttl });
    check_text(
        &refreshed(Some(30)),
        &format!(r#"{{"id":1,"refresh":{{"client":"c1","version":"{version}","expires":true,"ttl":30}}}}"#),
    );
    check_text(&refreshed(None), &format!(r#"{{"id":1,"refresh":{{"client":"c1","version":"{version}"}}}}"#));
    let renewed = |ttl| JSON.reply(2, &Reply::SubRefreshed { ttl });
    check_text(&renewed(Some(5)), r#"{"id":2,"sub_refresh":{"expires":true,"ttl":5}}"#);
    check_text(&renewed(None), r#"{"id":2,"sub_refresh":{"expires":false}}"#);
    check_text(&JSON.push(&Push::Refresh { ttl: Some(9) }), r#"{"push":{"refresh":{"expires":true,"ttl":9}}}"#);
    let joined = JoinedRoom { ttl: Some(7), ..JoinedRoom::default() };
    check_text(&JSON.reply(3, &Reply::Joined(&joined)), r#"{"id":3,"subscribe":{"expires":true,"ttl":7}}"#);
}

#[test]
fn pushes_and_replies_have_their_shape() {
    let member = MemberInfo {
        connection: "c".into(),
        user: "ada".into(),
        info: "{\"name\":\"Ada\"}".into(),
        room_info: "".into(),
    };
    let push = Push::Publication(Publication {
        room: "chat:\"1\"",
        payload: PayloadRef::Text("{\"a\":\n1}"),
        sender: Some(&member),
        tags: &[("generation".into(), "7".into())],
        offset: 0,
    });
    check_text(
        &JSON.push(&push),
        r#"{"push":{"channel":"chat:\"1\"","pub":{"data":{"a":1},"info":{"client":"c","user":"ada","conn_info":{"name":"Ada"}},"tags":{"generation":"7"}}}}"#,
    );
    check_text(
        &JSON.push(&Push::Left { room: "r", member: &member }),
        r#"{"push":{"channel":"r","leave":{"info":{"client":"c","user":"ada","conn_info":{"name":"Ada"}}}}}"#,
    );
    check_text(
        &JSON.push(&Push::YouLeft { room: "r", code: 2000, reason: "bye" }),
        r#"{"push":{"channel":"r","unsubscribe":{"code":2000,"reason":"bye"}}}"#,
    );
    check_text(&JSON.push(&Push::Message(PayloadRef::Text("1"))), r#"{"push":{"message":{"data":1}}}"#);
    check_text(&JSON.push(&Push::Ping), "{}");
    check_text(
        &JSON.refusal(3, &Refusal::TOO_MANY_REQUESTS),
        r#"{"id":3,"error":{"code":111,"message":"too many requests","temporary":true}}"#,
    );
    check_text(
        &JSON.reply(1, &Reply::Presence(vec![member])),
        r#"{"id":1,"presence":{"presence":{"c":{"client":"c","user":"ada","conn_info":{"name":"Ada"}}}}}"#,
    );
    check_text(&JSON.reply(9, &Reply::Joined(&JoinedRoom::default())), r#"{"id":9,"subscribe":{}}"#);
}

#[test]
fn each_way_out_has_its_own_frame() {
    let ping = |encoding: Encoding| encoding.push(&Push::Ping).to_vec();
    assert_eq!(ping(Encoding::CentrifugeJsonStream), b"{}\n");
    assert_eq!(ping(Encoding::CentrifugeEvents), b"data: {}\n\n");
    assert_eq!(ping(Encoding::CentrifugeProtobuf), [0x82, 1, 0]);
    assert_eq!(ping(Encoding::CentrifugeProtobufStream), [0]);
    let close = crate::protocol::Close::SHUTDOWN;
    assert_eq!(
        Encoding::CentrifugeJsonStream.close(&close),
        "{\"push\":{\"disconnect\":{\"code\":3001,\"reason\":\"shutdown\"}}}\n"
    );
}

#[test]
fn what_is_said_beside_a_stream_names_it() {
    let said = Said::from_json(br#"{"node":"n","session":"s","data":"{\"id\":1}"}"#).unwrap();
    assert_eq!((said.node.as_str(), said.session.as_str()), ("n", "s"));
    assert_eq!(said.message, Incoming::Text("{\"id\":1}".into()));
    assert!(Said::from_json(b"{}").is_err());
}
