//! Keeps `docs/PROTOCOL.md` and the message types together: the schemas in the document are made from the types.
//!
//! `UPDATE_DOCS=1 cargo test -p scitq-shared --test protocol_document` writes the document anew.

#![expect(clippy::unwrap_used, reason = "a test: what fails is shown")]

use std::fmt::Write as _;

use schemars::{JsonSchema, schema_for};
use scitq_shared::protocol::{
    ControlMessage, Heartbeat, Marker, OutputMessage, TaskMessage, WorkerMessage,
};

const BEGIN: &str = "<!-- schemas: made from the types, do not edit -->\n";

fn schema<T: JsonSchema>(text: &mut String, title: &str) {
    let schema = serde_json::to_string_pretty(&schema_for!(T)).unwrap();
    let _ = write!(text, "\n### {title}\n\n```json\n{schema}\n```\n");
}

fn schemas() -> String {
    let mut text = String::from(BEGIN);
    schema::<TaskMessage>(&mut text, "TaskMessage");
    schema::<WorkerMessage>(&mut text, "WorkerMessage");
    schema::<OutputMessage>(&mut text, "OutputMessage");
    schema::<Heartbeat>(&mut text, "Heartbeat");
    schema::<ControlMessage>(&mut text, "ControlMessage");
    schema::<Marker>(&mut text, "Marker");
    text
}

#[test]
fn the_document_holds_the_schemas_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (prose, written) =
        document.split_at(document.find(BEGIN).expect("the mark of the schemas"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{prose}{}", schemas())).unwrap();
    } else {
        assert!(
            written == schemas(),
            "docs/PROTOCOL.md differs from the types: run UPDATE_DOCS=1 cargo test -p scitq-shared --test protocol_document"
        );
    }
}
