use super::*;

#[track_caller]
fn check_text(frame: &Bytes, expected: &str) {
    let start = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    assert_eq!(std::str::from_utf8(&frame[start..]).unwrap(), expected);
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
    assert_eq!((hello.token.as_ref(), hello.data), ("t\n", Some("{\"a\": 1}")));
    assert!(matches!(&requests[1].command, Command::Join { room, .. } if room == "r"));
    assert!(matches!(requests[2].command, Command::Pong));
}

#[test]
fn null_is_data_like_any_other() {
    let text = "{\"id\":1,\"publish\":{\"channel\":\"r\",\"data\":null}}\n{\"id\":2,\"rpc\":{\"data\":null}}";
    let requests: Vec<_> = decode(text).map(Result::unwrap).collect();
    assert!(matches!(requests[0].command, Command::Publish { data: "null", .. }));
    assert!(matches!(requests[1].command, Command::Call { data: Some("null"), .. }));
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
    let refreshed = |ttl| encode_reply(1, &Reply::Refreshed { connection: "c1", ttl });
    check_text(
        &refreshed(Some(30)),
        &format!(r#"{{"id":1,"refresh":{{"client":"c1","version":"{version}","expires":true,"ttl":30}}}}"#),
    );
    check_text(&refreshed(None), &format!(r#"{{"id":1,"refresh":{{"client":"c1","version":"{version}"}}}}"#));
    let renewed = |ttl| encode_reply(2, &Reply::SubRefreshed { ttl });
    check_text(&renewed(Some(5)), r#"{"id":2,"sub_refresh":{"expires":true,"ttl":5}}"#);
    check_text(&renewed(None), r#"{"id":2,"sub_refresh":{"expires":false}}"#);
    check_text(&encode_push(&Push::Refresh { ttl: Some(9) }), r#"{"push":{"refresh":{"expires":true,"ttl":9}}}"#);
    let joined = JoinedRoom { ttl: Some(7), ..JoinedRoom::default() };
    check_text(&encode_reply(3, &Reply::Joined(&joined)), r#"{"id":3,"subscribe":{"expires":true,"ttl":7}}"#);
}

#[test]
fn pushes_and_replies_have_their_shape() {
    let member = MemberInfo {
        connection: "c".into(),
        user: "ada".into(),
        info: "{\"name\":\"Ada\"}".into(),
        room_info: "".into(),
    };
    let push = Push::Publication {
        room: "chat:\"1\"",
        data: "{\"a\":\n1}",
        sender: Some(&member),
        tags: &[("generation".into(), "7".into())],
        offset: 0,
    };
    check_text(
        &encode_push(&push),
        r#"{"push":{"channel":"chat:\"1\"","pub":{"data":{"a":1},"info":{"client":"c","user":"ada","conn_info":{"name":"Ada"}},"tags":{"generation":"7"}}}}"#,
    );
    check_text(
        &encode_push(&Push::Left { room: "r", member: &member }),
        r#"{"push":{"channel":"r","leave":{"info":{"client":"c","user":"ada","conn_info":{"name":"Ada"}}}}}"#,
    );
    check_text(
        &encode_push(&Push::YouLeft { room: "r", code: 2000, reason: "bye" }),
        r#"{"push":{"channel":"r","unsubscribe":{"code":2000,"reason":"bye"}}}"#,
    );
    check_text(&encode_push(&Push::Message("1")), r#"{"push":{"message":{"data":1}}}"#);
    check_text(&encode_push(&Push::Ping), "{}");
    check_text(
        &encode_refusal(3, &Refusal::TOO_MANY_REQUESTS),
        r#"{"id":3,"error":{"code":111,"message":"too many requests","temporary":true}}"#,
    );
    check_text(
        &encode_reply(1, &Reply::Presence(vec![member])),
        r#"{"id":1,"presence":{"presence":{"c":{"client":"c","user":"ada","conn_info":{"name":"Ada"}}}}}"#,
    );
    check_text(&encode_reply(9, &Reply::Joined(&JoinedRoom::default())), r#"{"id":9,"subscribe":{}}"#);
}
