//! What the demo logs, and the process that logs it until somebody kills it.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use weave_wal::{Client, Config, Kind, Ticket};

pub const ENTITY: &str = "demo";
pub const PROJECT: &str = "kill-me";
const PROJECT_ID: &str = "demo/kill-me";

/// Linux, macOS and the BSDs agree on this number.
const SIGKILL: i32 = 9;

/// One record. The same two numbers always make the same one, byte for byte.
pub struct Sample {
    pub kind: Kind,
    /// What `Client::call_start` and its like wrap; of a file, what arrives beside its content.
    body: Value,
    /// The content of a file.
    content: Vec<u8>,
}

impl Sample {
    /// Of each round of 64, 60 are the halves of calls, every second call inside the one before
    /// it; then come an object, a table, a text file and a binary one.
    pub fn new(writer: usize, n: usize) -> Sample {
        let (round, slot) = (n / 64, n % 64);
        let outer = (round * 15 + slot / 4) * 2;
        let id = |call: usize| format!("{writer:08x}-0000-7000-8000-{call:012x}");
        let start = |call: usize, parent: Option<String>| {
            json!({
                "project_id": PROJECT_ID, "id": id(call), "trace_id": id(outer),
                "parent_id": parent, "op_name": "answer", "started_at": "2026-01-01T00:00:00Z",
                "attributes": {}, "inputs": {"question": format!("What is {n}?")},
            })
        };
        let end = |call: usize| {
            json!({
                "project_id": PROJECT_ID, "id": id(call), "ended_at": "2026-01-01T00:00:01Z",
                "output": format!("It is {n}. \"Jürgen\"\n\t✓"), "summary": {},
            })
        };
        let name = |what: &str| format!("{what}-{writer}-{n}");
        let file =
            |name: String| json!({"project_id": PROJECT_ID, "name": name, "expected_digest": null});
        let every_byte: Vec<u8> = (0..=u8::MAX).cycle().skip(n % 256).take(700).collect();
        let (kind, body, content) = match slot {
            60 => {
                let body = json!({
                    "project_id": PROJECT_ID, "object_id": name("object"), "val": {"n": n},
                });
                (Kind::ObjCreate, body, Vec::new())
            }
            61 => {
                let body = json!({
                    "project_id": PROJECT_ID, "rows": [{"id": name("table")}, {"n": n}],
                });
                (Kind::TableCreate, body, Vec::new())
            }
            62 => {
                let text = format!("Line {n}\r\nand a \"last\" one: ü");
                (Kind::FileCreate, file(name("text")), text.into_bytes())
            }
            63 => (Kind::FileCreate, file(name("binary")), every_byte),
            _ => match slot % 4 {
                0 => (Kind::CallStart, start(outer, None), Vec::new()),
                1 => (
                    Kind::CallStart,
                    start(outer + 1, Some(id(outer))),
                    Vec::new(),
                ),
                2 => (Kind::CallEnd, end(outer + 1), Vec::new()),
                _ => (Kind::CallEnd, end(outer), Vec::new()),
            },
        };
        Sample {
            kind,
            body,
            content,
        }
    }

    pub fn append(&self, client: &Client) -> weave_wal::Result<Ticket> {
        match self.kind {
            Kind::CallStart => client.call_start(&self.body),
            Kind::CallEnd => client.call_end(&self.body),
            Kind::ObjCreate => client.obj_create(&self.body),
            Kind::TableCreate => client.table_create(&self.body),
            Kind::FileCreate => {
                let name = self.body["name"].as_str().unwrap_or_default();
                client.file_create(name, &self.content)
            }
        }
    }

    /// What the server must get: the request, byte for byte, and of a file its content.
    pub fn expected(&self) -> (String, &[u8]) {
        let wrapped = |name: &str| format!("{{\"{name}\":{}}}", self.body);
        let req = match self.kind {
            Kind::CallStart => wrapped("start"),
            Kind::CallEnd => wrapped("end"),
            Kind::ObjCreate => wrapped("obj"),
            Kind::TableCreate => wrapped("table"),
            Kind::FileCreate => self.body.to_string(),
        };
        (req, &self.content)
    }

    /// Tells this record from all others.
    pub fn key(&self) -> String {
        let (req, _) = self.expected();
        key(self.kind.as_str(), &req).unwrap_or_default()
    }
}

/// The key of a record as it stands in a log or has reached the server.
pub fn key(kind: &str, req: &str) -> Option<String> {
    let req: Value = serde_json::from_str(req).ok()?;
    let place = match kind {
        "call_start" => "/start/id",
        "call_end" => "/end/id",
        "obj_create" => "/obj/object_id",
        "table_create" => "/table/rows/0/id",
        _ => "/name",
    };
    Some(format!("{kind} {}", req.pointer(place)?.as_str()?))
}

/// The writer process: appends for as long as it lives and prints the key of each record that the
/// log has acknowledged.
pub fn write(root: &Path, writer: usize) -> Result<(), Box<dyn Error>> {
    // The demo holds the other end. When it goes, however it went, so does this process.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let client = Client::open(Config::new(ENTITY, PROJECT).root(root).sender(false))?;
    let mut acknowledge = io::stdout().lock();
    for n in 0.. {
        let sample = Sample::new(writer, n);
        sample.append(&client)?;
        writeln!(acknowledge, "{}", sample.key())?;
    }
    Ok(())
}

/// A writer process, as the demo sees it. It does not outlive this handle.
pub struct Writer {
    number: usize,
    child: Child,
    output: BufReader<ChildStdout>,
    acknowledged: Vec<Sample>,
}

impl Writer {
    pub fn start(root: &Path, number: usize) -> Result<Writer, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(super::WRITER)
            .args([root.as_os_str(), number.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the writer has no output")?;
        Ok(Writer {
            number,
            child,
            output: BufReader::new(output),
            acknowledged: Vec::new(),
        })
    }

    /// Reads until so many records are acknowledged.
    pub fn read(&mut self, records: usize) -> Result<(), Box<dyn Error>> {
        while self.acknowledged.len() < records {
            if !self.read_one()? {
                return Err("the writer ended before it was killed".into());
            }
        }
        Ok(())
    }

    /// Kills it with SIGKILL, whatever it is doing, and returns every record that it had
    /// acknowledged by then.
    pub fn kill(mut self) -> Result<Vec<Sample>, Box<dyn Error>> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the writer was not killed: {status}").into());
        }
        while self.read_one()? {}
        Ok(std::mem::take(&mut self.acknowledged))
    }

    /// `false`: there is no further whole line.
    fn read_one(&mut self) -> Result<bool, Box<dyn Error>> {
        let mut line = String::new();
        self.output.by_ref().read_line(&mut line)?;
        let Some(key) = line.strip_suffix('\n') else {
            return Ok(false);
        };
        let sample = Sample::new(self.number, self.acknowledged.len());
        if key != sample.key() {
            return Err(format!("the writer acknowledged what it had not to write: {key}").into());
        }
        self.acknowledged.push(sample);
        Ok(true)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
