use rustls::pki_types::UnixTime;

use super::{
    fault::Fault,
    files::Files,
    material::{Client, Material},
};
use crate::config::{ClientTls, HttpVersion, ServerTls};

/// Returns everything that is wrong now with the files of a listener.
pub(crate) fn check_server(tls: &ServerTls, now: UnixTime) -> Vec<Fault> {
    check(tls, now)
}

/// Returns everything that is wrong now with the files of an upstream.
pub(crate) fn check_client(tls: &ClientTls, now: UnixTime) -> Vec<Fault> {
    let client = Client {
        tls: tls.clone(),
        // Makes no difference to the files.
        http: HttpVersion::Http2,
    };
    check(&client, now)
}

fn check(material: &impl Material, now: UnixTime) -> Vec<Fault> {
    let files = Files::read(material.files());
    material.build(&files, now).err().unwrap_or_default()
}
