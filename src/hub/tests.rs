use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::room::Position;
use crate::{
    plugin::Permission,
    protocol::Encoding,
    session::{flusher::Flusher, outbox::Outbox},
};

const CONNECTIONS: usize = 6;
const ROOMS: [&str; 4] = ["a", "b", "c", "d"];
const USERS: [&str; 3] = ["", "ada", "bob"];
const MAX_ROOMS: usize = 3;
const MAX_DEVICES: usize = 2;

#[derive(Debug, Clone)]
enum Operation {
    Add(usize),
    Remove(usize),
    Join(usize, usize),
    Leave(usize, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (connection, room) = (0..CONNECTIONS, 0..ROOMS.len());
    prop_oneof![
        2 => connection.clone().prop_map(Operation::Add),
        1 => connection.clone().prop_map(Operation::Remove),
        5 => (connection.clone(), room.clone()).prop_map(|(connection, room)| Operation::Join(connection, room)),
        3 => (connection, room).prop_map(|(connection, room)| Operation::Leave(connection, room)),
    ]
}

/// A connection over a real socket; nobody reads at its other end.
async fn connection(user: &str) -> Arc<Connection> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let id = ConnectionId::random(crate::id::BootId(1));
    let outbox = Arc::new(Outbox::new(crate::net::Socket::from(socket), 1 << 20, 0));
    Arc::new(Connection::new(id, user.into(), "".into(), Encoding::CentrifugeJson, outbox))
}

fn membership() -> Membership {
    Membership {
        publish: Permission::Configured,
        presence: Permission::Configured,
        info: "".into(),
        kept: Kept::default(),
        registered: None,
        lease: None,
    }
}

fn entrant(place: Place, stand: Stand) -> Entrant {
    Entrant { membership: membership(), place, stand, listening: Listening::default(), slow: None }
}

/// Takes a place and puts a connection there.
fn join(
    hub: &Hub,
    connection: &Arc<Connection>,
    room: &str,
    max: usize,
    stand: Stand,
    batch: &mut Batch<'_>,
) -> Result<Place, NotAdded> {
    let place = hub.reserve(connection, &room.into(), max)?;
    hub.join(connection, &room.into(), entrant(place, stand), &Told::default(), batch)?;
    Ok(place)
}

/// What the hub should hold, told by much simpler means.
#[derive(Default)]
struct Model {
    rooms: BTreeMap<usize, BTreeSet<usize>>,
    gone: BTreeSet<usize>,
}

fn check(hub: &Hub, connections: &[Arc<Connection>], model: &Model) {
    for (at, room) in ROOMS.iter().enumerate() {
        let expected: BTreeSet<_> =
            model.rooms.iter().filter(|(_, rooms)| rooms.contains(&at)).map(|(n, _)| connections[*n].id).collect();
        let found: BTreeSet<_> = hub.connections_in(room).iter().map(|connection| connection.id).collect();
        assert_eq!(found, expected, "members of {room}");
        let users: BTreeSet<_> = hub.connections_in(room).iter().map(|connection| connection.user.clone()).collect();
        assert_eq!(hub.count(room), (expected.len(), users.len()));
        for (n, connection) in connections.iter().enumerate() {
            let is_in = model.rooms.get(&n).is_some_and(|rooms| rooms.contains(&at));
            assert_eq!(connection.membership(room).is_some(), is_in, "both ways agree");
        }
    }
    for user in &USERS[1..] {
        let expected: BTreeSet<_> = model
            .rooms
            .keys()
            .map(|n| &connections[*n])
            .filter(|known| &*known.user == *user)
            .map(|known| known.id)
            .collect();
        let found: BTreeSet<_> = hub.connections_of(user).iter().map(|known| known.id).collect();
        assert_eq!(found, expected, "devices of {user}");
    }
    assert_eq!(hub.n_connections(), model.rooms.len());
    assert_eq!(hub.n_rooms(), model.rooms.values().flatten().collect::<BTreeSet<_>>().len());
}

fn apply(hub: &Hub, connections: &[Arc<Connection>], model: &mut Model, operation: &Operation) {
    let flusher = Flusher::new(1);
    let mut batch = Batch::new(&flusher);
    match *operation {
        Operation::Add(n) => {
            let user = &connections[n].user;
            if model.rooms.contains_key(&n) || model.gone.contains(&n) {
                return;
            }
            let devices = model.rooms.keys().filter(|known| connections[**known].user == *user).count();
            let expected = if user.is_empty() || devices < MAX_DEVICES { Ok(()) } else { Err(NotAdded::Limit) };
            assert_eq!(hub.add(&connections[n], MAX_DEVICES), expected);
            if expected.is_ok() {
                model.rooms.insert(n, BTreeSet::new());
            }
        }
        Operation::Remove(n) => {
            let rooms = hub.remove(&connections[n]).unwrap_or_default();
            for room in &rooms {
                assert!(hub.leave(&connections[n], room, &Told::default(), &mut batch).is_some());
            }
            let left: BTreeSet<_> = rooms.into_iter().map(|room| room.to_string()).collect();
            let expected = model.rooms.remove(&n).unwrap_or_default();
            assert_eq!(left, expected.into_iter().map(|at| ROOMS[at].to_owned()).collect());
            model.gone.insert(n);
        }
        Operation::Join(n, room) => {
            if !model.rooms.contains_key(&n) && !model.gone.contains(&n) {
                return;
            }
            let joined = join(hub, &connections[n], ROOMS[room], MAX_ROOMS, Stand::Live, &mut batch).map(|_| ());
            let expected = match model.rooms.get_mut(&n) {
                None => Err(NotAdded::Gone),
                Some(rooms) if rooms.contains(&room) => Err(NotAdded::Already),
                Some(rooms) if rooms.len() == MAX_ROOMS => Err(NotAdded::Limit),
                Some(rooms) => {
                    rooms.insert(room);
                    Ok(())
                }
            };
            assert_eq!(joined, expected);
        }
        Operation::Leave(n, room) => {
            let expected = model.rooms.get_mut(&n).is_some_and(|rooms| rooms.remove(&room));
            assert_eq!(hub.leave(&connections[n], ROOMS[room], &Told::default(), &mut batch).is_some(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_indexes_agree_after_any_operations(operations in prop::collection::vec(operation(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connections = Vec::new();
            for n in 0..CONNECTIONS {
                connections.push(connection(USERS[n % USERS.len()]).await);
            }
            let (hub, mut model) = (Hub::new(), Model::default());
            for operation in &operations {
                apply(&hub, &connections, &mut model, operation);
                check(&hub, &connections, &model);
            }
        });
    }
}

#[test]
fn a_connection_that_several_targets_reach_is_reached_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (hub, flusher) = (Hub::new(), Flusher::new(1));
        let mut batch = Batch::new(&flusher);
        let mut connections = Vec::new();
        for rooms in [&["a"][..], &["b"], &["a", "b"], &[]] {
            let connection = connection("").await;
            hub.add(&connection, 1).unwrap();
            for room in rooms {
                join(&hub, &connection, room, 9, Stand::Live, &mut batch).unwrap();
            }
            connections.push(connection);
        }
        let broadcast = Broadcast::new(crate::protocol::Push::Message(crate::protocol::PayloadRef::Text("1")));
        let mut seen = Seen::tracking();
        seen.exclude(connections[1].id);
        let mut delivered = hub.deliver_room("a", &broadcast, &mut seen, &mut batch);
        delivered += hub.deliver_room("b", &broadcast, &mut seen, &mut batch);
        delivered += hub.deliver_each(&connections, &broadcast, &mut seen, &mut batch);
        assert_eq!(delivered, Delivered { queued: 3, ..Delivered::default() });
    });
}

/// A room with two members that came at offset 0 of `e`, and a third that is
/// held.
async fn held(hub: &Hub, batch: &mut Batch<'_>) -> (Vec<Arc<Connection>>, Place) {
    let mut connections = Vec::new();
    let mut last = None;
    for n in 0..3 {
        let connection = connection("").await;
        connection.outbox.hold();
        hub.add(&connection, 1).unwrap();
        let held = Stand::Held(Waiting::default());
        let place = join(hub, &connection, "a", 9, held, batch).unwrap();
        if n < 2 {
            assert!(hub.release(&connection, "a", place, &at("e", 0), None, true, batch));
        }
        connections.push(connection);
        last = Some(place);
    }
    (connections, last.unwrap())
}

fn at(epoch: &str, offset: u64) -> Position {
    Position { epoch: epoch.into(), offset }
}

fn deliver(hub: &Hub, epoch: &str, offset: u64, batch: &mut Batch<'_>) -> Placed {
    let push = crate::protocol::Push::Publication(crate::protocol::Publication {
        room: "a",
        payload: crate::protocol::PayloadRef::Text("1"),
        sender: None,
        tags: &[],
        offset,
    });
    hub.deliver_at("a", &at(epoch, offset), &Broadcast::new(push), batch)
}

#[test]
fn who_is_let_in_has_all_that_lies_between_it_and_the_others() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let flusher = Flusher::new(1);
        let mut batch = Batch::new(&flusher);
        for (position, moved, is_let_in) in [
            // It has read 1; 2 waits for it.
            (at("e", 1), None, true),
            // It has read more than the others have heard.
            (at("e", 5), None, true),
            // The others never hear 3 and 4, and nor would it.
            (at("e", 1), Some(at("e", 4)), false),
            (at("e", 4), Some(at("e", 4)), true),
            // It has read another history than they hear.
            (at("f", 1), None, false),
        ] {
            let hub = Hub::new();
            let (connections, place) = held(&hub, &mut batch).await;
            assert!(matches!(deliver(&hub, "e", 1, &mut batch), Placed::Delivered(_)));
            assert!(matches!(deliver(&hub, "e", 2, &mut batch), Placed::Delivered(_)));
            if let Some(moved) = &moved {
                assert_eq!(hub.move_position("a", &at("e", 2), moved, true).unwrap().len(), 2);
            }
            let released = hub.release(&connections[2], "a", place, &position, None, true, &mut batch);
            assert_eq!(released, is_let_in, "{position:?} {moved:?}");
            let expected = usize::from(is_let_in && position.offset == 1);
            assert_eq!(connections[2].outbox.take().len(), expected);
        }
    });
}

#[test]
fn a_room_is_moved_only_from_where_it_stands() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (hub, flusher) = (Hub::new(), Flusher::new(1));
        let mut batch = Batch::new(&flusher);
        let (connections, place) = held(&hub, &mut batch).await;
        deliver(&hub, "e", 1, &mut batch);
        assert!(hub.move_position("a", &at("e", 0), &at("f", 0), true).is_none(), "a late repair");
        assert_eq!(hub.position("a"), Some(at("e", 1)));
        // One that was told 3 when it came; and then that is lost.
        assert!(hub.release(&connections[2], "a", place, &at("e", 3), None, true, &mut batch));
        let ahead = hub.move_position("a", &at("e", 1), &at("f", 1), false).unwrap();
        assert_eq!(ahead.iter().map(|connection| connection.id).collect::<Vec<_>>(), [connections[2].id]);
        assert_eq!(hub.move_position("a", &at("f", 1), &at("g", 0), true).unwrap().len(), 3);
    });
}

#[test]
fn who_is_turned_back_on_its_way_does_not_get_in_and_takes_nothing_from_who_comes_after() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (hub, flusher) = (Hub::new(), Flusher::new(1));
        let mut batch = Batch::new(&flusher);
        let connection = connection("").await;
        hub.add(&connection, 1).unwrap();
        let room: RoomName = "a".into();
        let undone = std::cell::Cell::new(0);
        let undo = || undone.set(undone.get() + 1);
        let join = |place, stand| {
            hub.join(&connection, &room, entrant(place, stand), &Told::default(), &mut Batch::new(&flusher))
        };
        // Alone, it undoes what it did.
        let first = hub.reserve(&connection, &room, 9).unwrap();
        hub.turn_back(&connection, "a");
        assert_eq!(join(first, Stand::Live), Err(NotAdded::Gone));
        assert!(!hub.give_up(&connection, "a", first, undo));
        assert_eq!(undone.get(), 1);
        // Another on its way, or in the room, counts on it.
        let second = hub.reserve(&connection, &room, 9).unwrap();
        assert!(!hub.give_up(&connection, "a", first, undo));
        assert_eq!(join(second, Stand::Held(Waiting::default())), Ok(()));
        assert!(!hub.give_up(&connection, "a", first, undo));
        assert!(!hub.release(&connection, "a", first, &at("e", 0), None, true, &mut batch));
        assert!(hub.release(&connection, "a", second, &at("e", 0), None, true, &mut batch));
        assert!(hub.is_in("a", connection.id));
        assert_eq!(undone.get(), 1);
        // It gives up its own, also when it is in.
        assert!(hub.give_up(&connection, "a", second, undo));
        assert_eq!((undone.get(), hub.n_rooms(), connection.membership("a").is_none()), (2, 0, true));
    });
}

/// What members get who want only some messages, or differences, while they are
/// catching up.
#[test]
fn who_is_held_misses_nothing_and_gets_no_difference_to_what_it_has_not() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (hub, flusher) = (Hub::new(), Flusher::new(1));
        let mut batch = Batch::new(&flusher);
        let rule = crate::protocol::Rule { key: "none".into(), cmp: "ex".into(), ..Default::default() };
        let filter = crate::protocol::Filter::new(rule).unwrap();
        let mut members = Vec::new();
        for listening in [Listening::new(Some(filter), false, false), Listening::new(None, true, false)] {
            let connection = connection("").await;
            connection.outbox.hold();
            hub.add(&connection, 1).unwrap();
            let place = hub.reserve(&connection, &"a".into(), 9).unwrap();
            let held = Entrant { listening, ..entrant(place, Stand::Held(Waiting::default())) };
            hub.join(&connection, &"a".into(), held, &Told::default(), &mut batch).unwrap();
            members.push((connection, place));
        }
        let text = format!("[{}1]", "\"the same\",".repeat(50));
        for offset in 1..=3 {
            let push = crate::protocol::Push::Publication(crate::protocol::Publication {
                room: "a",
                payload: crate::protocol::PayloadRef::Text(&text),
                sender: None,
                tags: &[],
                offset,
            });
            hub.deliver_at("a", &at("e", offset), &Broadcast::new(push), &mut batch);
        }
        // 1 was read; 2 and 3 came meanwhile.
        for (connection, place) in &members {
            assert!(hub.release(connection, "a", *place, &at("e", 1), None, true, &mut batch));
        }
        let frames = |n: usize| members[n].0.outbox.take();
        assert_eq!(frames(0).len(), 0, "nothing passes its filter");
        let whole = frames(1);
        assert_eq!(whole.len(), 2);
        assert!(whole.iter().all(|frame| frame.len() > text.len()), "differences to what it may not have");
    });
}
