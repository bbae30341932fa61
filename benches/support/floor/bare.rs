//! One thread that writes the same encoded frame to every socket in turn.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Result, ensure};
use parking_lot::Mutex;

use crate::support::{orders, wire};

/// A burst is written `joined` frames at a time.
pub(crate) fn serve(payload: usize, joined: usize) -> Result<()> {
    let listener = orders::listen()?;
    let members = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&members);
    spawn(move || -> Result<()> {
        for stream in listener.incoming() {
            accepted.lock().push(upgrade(stream?)?);
        }
        Ok(())
    });
    let frame = wire::server_frame(wire::payload(payload).as_bytes());
    let frames = frame.repeat(joined);
    orders::follow(|order| {
        let mut members = members.lock();
        match order {
            orders::Order::Members => println!("{}", members.len()),
            orders::Order::Send(mut left) => {
                while left > 0 {
                    let now = left.min(joined);
                    for stream in &mut *members {
                        write(stream, &frames[..now * frame.len()])?;
                    }
                    left -= now;
                }
            }
        }
        Ok(())
    })
}

fn upgrade(mut stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    let (mut request, mut length) = ([0; 1024], 0);
    while !wire::ends_head(&request[..length]) {
        let read = stream.read(&mut request[length..])?;
        ensure!(read > 0, "closed during the handshake");
        length += read;
    }
    stream.write_all(wire::upgrade_response(&request[..length]).as_bytes())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A full socket is waited for: the window of the load keeps that rare.
fn write(stream: &mut TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
