//! Some files of a torrent: what is fetched, what appears at the target, and what a later run makes of it.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

mod runtime;

use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dhtget::client::{
    Choice, Client, ClientConfig, Job, Pattern, Placement, Sink, Source, Status, Transfer, TransferError,
    TransferEvent,
};
use dhtget::rng::Rng;
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{FileKind, Info};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

const PIECE: usize = 32 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// Every file but the padding shares pieces with its neighbours; the padding fills a whole piece and more.
const FILES: [(&str, usize); 6] = [
    ("a.bin", 200_001),
    ("docs/b.txt", 5_000),
    ("c.bin", 300_000),
    ("", 48_311 + 2 * PIECE),
    ("d.bin", 250_000),
    ("e", 0),
];

fn run(test: impl Future<Output = ()>) {
    runtime::run_within(PATIENCE, test);
}

/// A torrent, a seed of it, and an empty `here/` to fetch it into.
struct Lab {
    dir: TempDir,
    info: Arc<Info>,
    content: Vec<u8>,
    seed: Option<(Client, Transfer)>,
}

impl Lab {
    async fn new(limit_upload: Option<u64>) -> Self {
        let mut content = Vec::new();
        let mut rng = Rng::from_u64(5);
        let dir = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (path, length) in FILES {
            let mut bytes = vec![0; length];
            w.begin_dict();
            if path.is_empty() {
                w.bytes(b"attr").bytes(b"p");
            } else {
                rng.fill(&mut bytes);
                let place = dir.path().join("seed/top").join(path);
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(place, &bytes).unwrap();
            }
            content.extend(bytes);
            w.bytes(b"length").int(length as i64).bytes(b"path").begin_list();
            path.split('/').for_each(|c| {
                w.bytes(c.as_bytes());
            });
            w.end().end();
        }
        let hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&hashes).end();
        let info = Arc::new(Info::parse(out.into()).unwrap());
        let mut lab = Self { dir, info, content, seed: None };
        let client = Self::client(limit_upload).await;
        let transfer = client.add(Job {
            source: Source::Info(lab.info.clone()),
            placement: Placement::InPlace(lab.dir.path().join("seed/top")),
            peers: vec![],
            seed: true,
            super_seed: false,
        });
        lab.seed = Some((client, transfer));
        fs::create_dir(lab.here()).unwrap();
        lab
    }

    async fn client(limit_upload: Option<u64>) -> Client {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let config = ClientConfig {
            listen,
            private_network: true,
            no_dht: true,
            limit_upload,
            ..ClientConfig::default()
        };
        Client::start(config).await.unwrap()
    }

    fn here(&self) -> PathBuf {
        self.dir.path().join("here")
    }

    fn folder(&self) -> Placement {
        Placement::Folder { dir: self.here(), name: None, overwrite: false }
    }

    fn peers(&self) -> Vec<String> {
        self.seed.iter().map(|(client, _)| format!("127.0.0.1:{}", client.port())).collect()
    }

    async fn start(&self, placement: Placement, files: &[&str], peers: Vec<String>) -> (Client, Transfer) {
        let client = Self::client(None).await;
        let files = files.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        let source = Source::Info(self.info.clone());
        let job = Job { source, placement, peers, seed: false, super_seed: false };
        let transfer = client.add_chosen(job, Choice { files, ..Choice::default() });
        (client, transfer)
    }

    /// Fetches these files; what was downloaded for them.
    async fn fetch(&self, files: &[&str]) -> Status {
        let (_client, mut transfer) = self.start(self.folder(), files, self.peers()).await;
        complete(&mut transfer).await.unwrap()
    }

    /// The files at the target, those with other bytes than the torrent's marked.
    fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.here()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let name = entry.strip_prefix(self.here()).unwrap().display().to_string();
                // The claim stays where a file could not be known again.
                if name == format!(".{}.dhtget", self.info.hash()) {
                    continue;
                }
                let file = self.info.files().iter().find(|f| name == format!("top/{}", f.path));
                let right = file.is_some_and(|f| {
                    let range = f.offset as usize..(f.offset + f.length) as usize;
                    f.kind == FileKind::Regular && fs::read(&entry).unwrap() == self.content[range]
                });
                found.push(if right { name } else { format!("{name}?") });
            }
        }
        found.sort();
        found
    }
}

async fn complete(transfer: &mut Transfer) -> Result<Status, TransferError> {
    let status = transfer.status();
    loop {
        match transfer.next().await.expect("the transfer ended without a word") {
            // The task goes on to its end, where it tidies up.
            TransferEvent::Complete => {
                while transfer.next().await.is_some() {}
                let status = status.borrow().clone();
                return Ok(status);
            }
            TransferEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
}

#[test]
fn what_nobody_selected_does_not_appear_and_is_fetched_later() {
    run(async {
        let lab = Lab::new(None).await;
        let status = lab.fetch(&["docs/**", "e"]).await;
        assert_eq!(lab.found(), ["top/docs/b.txt", "top/e"]);
        assert_eq!((status.total, status.verified, status.downloaded), (5_000, 5_000, PIECE as u64));
        // Another file: its neighbour stays as it is.
        lab.fetch(&["3"]).await;
        assert_eq!(lab.found(), ["top/c.bin", "top/docs/b.txt", "top/e"]);
        let rest = lab.fetch(&[]).await;
        assert_eq!(lab.found(), ["top/a.bin", "top/c.bin", "top/d.bin", "top/docs/b.txt", "top/e"]);
        assert_eq!(fs::read_dir(lab.here()).unwrap().count(), 1, "something is left behind");
        assert!(rest.downloaded < 550_000, "{} bytes fetched again", rest.downloaded);
        assert_eq!(rest.total, FILES.iter().filter(|f| !f.0.is_empty()).map(|f| f.1 as u64).sum::<u64>());
    });
}

/// Padding is known to be zeros: the pieces that are nothing else are here before anybody is asked.
#[test]
fn nobody_is_asked_for_padding() {
    run(async {
        let lab = Lab::new(None).await;
        let status = lab.fetch(&[]).await;
        let padding = lab.content.chunks(PIECE).filter(|c| c.iter().all(|b| *b == 0)).count() * PIECE;
        assert!(padding >= PIECE);
        assert_eq!(status.downloaded as usize, lab.content.len() - padding);
        assert_eq!(status.pieces_verified, lab.info.layout().count());
    });
}

#[test]
fn an_interrupted_selection_goes_on_where_it_stopped() {
    run(async {
        let lab = Lab::new(Some(400_000)).await;
        let (client, mut transfer) = lab.start(lab.folder(), &["docs/b.txt", "c.bin"], lab.peers()).await;
        while let Some(event) = transfer.next().await {
            if matches!(event, TransferEvent::Half) {
                break;
            }
        }
        transfer.stop().await;
        client.shutdown().await;
        assert!(lab.here().join(format!(".{}.dhtget", lab.info.hash())).exists());
        let status = lab.fetch(&["docs/b.txt", "c.bin"]).await;
        assert!(status.downloaded < 200_000, "{} bytes fetched again", status.downloaded);
        assert_eq!(lab.found(), ["top/c.bin", "top/docs/b.txt"]);
    });
}

/// What an earlier run began and nobody wants now is still known to be ours.
#[test]
fn what_was_begun_and_is_not_selected_now_can_be_selected_again() {
    run(async {
        let lab = Lab::new(Some(400_000)).await;
        let (client, mut transfer) = lab.start(lab.folder(), &["a.bin"], lab.peers()).await;
        while let Some(event) = transfer.next().await {
            if matches!(event, TransferEvent::FirstPiece) {
                break;
            }
        }
        transfer.stop().await;
        client.shutdown().await;
        lab.fetch(&["docs/b.txt"]).await;
        assert!(lab.here().join(format!(".{}.dhtget", lab.info.hash())).exists());
        lab.fetch(&["a.bin"]).await;
        assert_eq!(lab.found(), ["top/a.bin", "top/docs/b.txt"]);
    });
}

#[test]
fn a_strangers_file_that_nobody_selected_is_left_alone() {
    run(async {
        let lab = Lab::new(None).await;
        fs::create_dir(lab.here().join("top")).unwrap();
        fs::write(lab.here().join("top/a.bin"), vec![b'x'; FILES[0].1]).unwrap();
        fs::write(lab.here().join("top/c.bin"), "mine").unwrap();
        // The second run finds a claim of the first.
        for _ in 0..2 {
            lab.fetch(&["docs/b.txt"]).await;
            assert_eq!(lab.found(), ["top/a.bin?", "top/c.bin?", "top/docs/b.txt"]);
            assert_eq!(fs::read(lab.here().join("top/a.bin")).unwrap(), vec![b'x'; FILES[0].1]);
        }
    });
}

#[test]
fn an_edited_copy_that_nobody_selected_is_left_alone() {
    run(async {
        let lab = Lab::new(None).await;
        fs::create_dir(lab.here().join("top")).unwrap();
        let mut edited = lab.content[..FILES[0].1].to_vec();
        *edited.last_mut().unwrap() ^= 1;
        fs::write(lab.here().join("top/a.bin"), &edited).unwrap();
        for _ in 0..2 {
            lab.fetch(&["docs/b.txt"]).await;
            assert_eq!(lab.found(), ["top/a.bin?", "top/docs/b.txt"]);
            assert!(fs::read(lab.here().join("top/a.bin")).unwrap() == edited);
        }
    });
}

#[test]
fn a_choice_that_is_not_there_writes_nothing() {
    run(async {
        let lab = Lab::new(None).await;
        let client = Lab::client(None).await;
        let job = Job {
            source: Source::Hash(lab.info.hash()),
            placement: Placement::Folder { dir: lab.here().join("new"), name: None, overwrite: false },
            peers: lab.peers(),
            seed: false,
            super_seed: false,
        };
        let files = vec![Pattern::parse("*.foo").unwrap()];
        let mut transfer = client.add_chosen(job, Choice { files, ..Choice::default() });
        assert!(matches!(complete(&mut transfer).await, Err(TransferError::Choice(_))));
        assert_eq!(fs::read_dir(lab.here()).unwrap().count(), 0);
    });
}

/// A reader that takes what he is given, and then no more.
struct Reader {
    bytes: Arc<std::sync::Mutex<Vec<u8>>>,
    writes: Arc<AtomicUsize>,
    pause: Duration,
    most: usize,
}

impl Write for Reader {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        std::thread::sleep(self.pause);
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() >= self.most {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = data.len().min(10_000);
        bytes.extend(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn stream(
    lab: &Lab,
    file: &str,
    pause: Duration,
    most: usize,
) -> (Result<Status, TransferError>, Vec<u8>) {
    let bytes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let reader = Reader { bytes: bytes.clone(), writes: Arc::default(), pause, most };
    let placement = Placement::Stream { dir: lab.here(), sink: Sink::new(reader) };
    let (_client, mut transfer) = lab.start(placement, &[file], lab.peers()).await;
    let outcome = complete(&mut transfer).await;
    assert_eq!(fs::read_dir(lab.here()).unwrap().count(), 0, "something is left behind");
    let bytes = bytes.lock().unwrap().clone();
    (outcome, bytes)
}

#[test]
fn a_stream_gives_a_slow_reader_every_byte_in_order() {
    run(async {
        let lab = Lab::new(None).await;
        for (file, at) in [("c.bin", 205_001), ("docs/b.txt", 200_001), ("e", 0)] {
            let length = FILES.iter().find(|f| f.0 == file).unwrap().1;
            let (outcome, bytes) = stream(&lab, file, Duration::from_millis(5), usize::MAX).await;
            let status = outcome.unwrap();
            assert!(bytes == lab.content[at..at + length], "{file}: {} bytes", bytes.len());
            assert_eq!((status.total, status.unread), (length as u64, 0));
        }
    });
}

#[test]
fn a_stream_ends_when_its_reader_goes() {
    run(async {
        let lab = Lab::new(None).await;
        let (outcome, bytes) = stream(&lab, "d.bin", Duration::ZERO, 50_000).await;
        assert!(matches!(outcome, Err(TransferError::ReaderGone)), "{outcome:?}");
        assert!((50_000..70_000).contains(&bytes.len()), "{} bytes", bytes.len());
        assert!(lab.content[lab.info.files()[4].offset as usize..].starts_with(&bytes));
    });
}

#[test]
fn a_stream_into_a_full_device_says_so() {
    run(async {
        let lab = Lab::new(None).await;
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let placement = Placement::Stream { dir: lab.here(), sink: Sink::new(full) };
        let (_client, mut transfer) = lab.start(placement, &["c.bin"], lab.peers()).await;
        let outcome = complete(&mut transfer).await;
        assert!(matches!(outcome, Err(TransferError::Output { full: true, .. })), "{outcome:?}");
        assert_eq!(fs::read_dir(lab.here()).unwrap().count(), 0, "something is left behind");
    });
}

#[test]
fn the_folder_of_a_stream_is_named_where_it_cannot_be_used() {
    run(async {
        let lab = Lab::new(None).await;
        fs::write(lab.here().join("file"), "").unwrap();
        let placement = Placement::Stream { dir: lab.here().join("file/below"), sink: Sink::new(io::sink()) };
        let (_client, mut transfer) = lab.start(placement, &["c.bin"], lab.peers()).await;
        let outcome = complete(&mut transfer).await;
        assert!(
            matches!(&outcome, Err(TransferError::Disk { path, .. }) if Path::new(path).ends_with("below")),
            "{outcome:?}"
        );
    });
}
