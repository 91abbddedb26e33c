//! The last finisher's time against the number of peers, as a picture: crowds of real machines in virtual time beside the
//! shortest time that any protocol could need, and a server that sends each peer a copy.
//!
//! `cargo run --release --example swarm_curve` writes `docs/swarm_curve.svg`; `-- --most N` stops at N peers.

#[path = "../tests/sim/crowd/mod.rs"]
mod crowd;

use std::fmt::Write as _;
use std::time::Duration;

use crowd::{KIB, Role, World, t_min};

const SIZE: usize = 8 << 20;
const PIECE: usize = 32 << 10;
const UP: u64 = 128 * KIB;
const DOWN: u64 = 4096 * KIB;
const COUNTS: [usize; 9] = [1, 2, 5, 10, 20, 50, 100, 150, 200];
const OUT: &str = "docs/swarm_curve.svg";

/// Of the picture, and of the margins left and below, right and above.
const FRAME: (f64, f64) = (760.0, 420.0);
const MARGIN: (f64, f64, f64, f64) = (64.0, 48.0, 16.0, 36.0);
/// Seconds at the top: a server is off the picture soon.
const TOP: f64 = 240.0;

fn main() {
    let mut args = std::env::args().skip(1);
    let most = match (args.next().as_deref(), args.next()) {
        (Some("--most"), Some(n)) => n.parse().unwrap_or(200),
        _ => 200,
    };
    let mut crowds = Vec::new();
    for count in COUNTS.into_iter().filter(|n| *n <= most) {
        let last = last_finisher(count);
        let best = shortest(count);
        println!("{count:4} peers: last {last:6.1} s, shortest {best:6.1} s, ratio {:.2}", last / best);
        crowds.push((count as f64, last));
    }
    if let Err(error) = std::fs::write(OUT, picture(&crowds)) {
        eprintln!("{OUT}: {error}");
        std::process::exit(1);
    }
    println!("wrote {OUT}");
}

fn shortest(count: usize) -> f64 {
    t_min(SIZE, UP, &vec![UP; count], DOWN, count)
}

fn last_finisher(count: usize) -> f64 {
    let mut world = World::new(1, 0.0, (SIZE, PIECE));
    world.add(Role::Seeder, UP, DOWN);
    for _ in 0..count {
        world.add(Role::Leecher, UP, DOWN);
    }
    world.introduce();
    world.run(Duration::from_secs(20_000), |w| w.all_done());
    world.elapsed().as_secs_f64()
}

fn x(count: f64) -> f64 {
    MARGIN.0 + (FRAME.0 - MARGIN.0 - MARGIN.2) * count / 200.0
}

fn y(seconds: f64) -> f64 {
    FRAME.1 - MARGIN.1 - (FRAME.1 - MARGIN.1 - MARGIN.3) * seconds / TOP
}

fn line(class: &str, points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> = points.map(|(n, s)| format!("{:.1},{:.1}", x(n), y(s))).collect();
    format!("<polyline class=\"{class}\" points=\"{}\"/>\n", points.join(" "))
}

fn picture(crowds: &[(f64, f64)]) -> String {
    let (width, height) = FRAME;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>Time until the last peer has everything, against the number of peers</title>\n<style>\n\
         svg {{ font: 13px sans-serif; }} text {{ fill: #24292f; }} .grid {{ stroke: #8886; }}\n\
         polyline {{ fill: none; stroke-width: 2.5; }}\n\
         .crowd {{ stroke: #0969da; fill: #0969da; }} .least {{ stroke: #1a7f37; stroke-dasharray: 6 4; }} .server {{ stroke: #cf222e; }}\n\
         polyline.crowd {{ fill: none; }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3; }} .crowd {{ stroke: #58a6ff; }} circle.crowd {{ fill: #58a6ff; }}\n\
         .least {{ stroke: #3fb950; }} .server {{ stroke: #ff7b72; }} }}\n</style>\n"
    );
    for seconds in (0..=4).map(|n| f64::from(n) * TOP / 4.0) {
        let (left, right, at) = (MARGIN.0, width - MARGIN.2, y(seconds));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{seconds} s</text>",
            left - 8.0,
            at + 4.0
        );
    }
    for count in [1.0, 50.0, 100.0, 150.0, 200.0] {
        let (at, below) = (x(count), height - MARGIN.1 + 20.0);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{count}</text>");
    }
    let server = |n: f64| (n, n * SIZE as f64 / UP as f64);
    let beyond = TOP * UP as f64 / SIZE as f64;
    out += &line("server", [1.0, beyond].map(server).into_iter());
    out += &line("least", [1, 50, 100, 150, 200].map(|n| (n as f64, shortest(n))).into_iter());
    out += &line("crowd", crowds.iter().copied());
    for (count, seconds) in crowds {
        let _ = writeln!(
            out,
            "<circle class=\"crowd\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
            x(*count),
            y(*seconds)
        );
    }
    let words = [
        (MARGIN.0, 18.0, "time until the last peer has everything"),
        (x(100.0), y(100.0), "a crowd of dhtget"),
        (x(100.0), y(44.0), "the shortest possible, max(F/us, F/dmin, N·F/(us+Σui))"),
        (x(5.5), y(225.0), "a server alone, N·F/us"),
        (x(100.0), height - 8.0, "peers (8 MiB, everyone sends 128 KiB/s)"),
    ];
    for (at, below, text) in words {
        let anchor = if at < x(50.0) { "start" } else { "middle" };
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }
    out + "</svg>\n"
}
