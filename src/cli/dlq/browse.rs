//! `dlq browse`: the view of a stored scan on the terminal, and the marked letters as a selection.
//!
//! The view is drawn on standard error, so that standard output is the selection and nothing else.
//! However it ends, but for a SIGKILL, the terminal is as it was.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::base::time::Timestamp;
use crate::dashboard::dead_letters::desk::read;
use crate::dashboard::dead_letters::{
    Browse, Data, Effect, Ending, Event, HandOver, Key, Palette, draw,
};
use crate::deadletter::store::Scan;
use crate::deadletter::{LetterSet, Scans};
use crate::delivery::Wish;

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::missing::shell_word;
use crate::cli::output::{Format, count};
use crate::cli::session::Session;
use crate::cli::signals::Signal;

use super::letters::write_selection;
use super::scan::ask_and_scan;
use super::stored::{ScanOf, pick};

/// Arguments of `dlq browse`.
#[derive(Debug, Args)]
#[command(
    after_help = "Groups, their letters, one letter, two letters side by side; `?` lists the keys. It reads \
    the newest scan and not the queue; a queue named with --queue that was never scanned is scanned first, \
    if you agree to the cost. Space marks a letter or a group; `p` hands the marked ones on as a file that \
    `--selection` of `dlq plan` reads, or prints them where standard output is no terminal. With -o json \
    the marked letters are the output, however it is left.\n\nIt needs a terminal. Without one, \
    `dlq groups`, `dlq letters`, `dlq show` and `dlq diff` tell the same.\n\nStatus 130 and 143: stopped, \
    and nothing was handed on.\n\nExamples:\n  nexusctl dlq browse\n  \
    nexusctl dlq browse --queue dead.agent.worker --out marked.json"
)]
pub(super) struct BrowseArgs {
    #[command(flatten)]
    of: ScanOf,
    /// Show secrets as they are; `u` masks them and shows them again
    #[arg(long)]
    unmask: bool,
    /// Write the marked letters to this file when `p` hands them on
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the view came to: how it was left, and what was marked.
struct Left {
    ending: Ending,
    marked: LetterSet,
}

pub(super) fn run(args: &BrowseArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    need_terminal(session)?;
    let picked = pick(&args.of, session);
    let (scans, scan) = match (picked, &args.of.queue) {
        (Err(error), Some(queue)) if error.code == code::UNKNOWN_NAME => {
            ask_and_scan(queue, session)?;
            pick(&args.of, session)?
        }
        (picked, _) => picked?,
    };
    let format = session.ui.format;
    let left = session.drive(look(args, &scans, &scan, session))?;
    let queue = shell_word(scan.of.queue.as_str());
    let marked = count(left.marked.len(), "letter");
    if scan.twins > 0 && left.ending != Ending::Quit && !left.marked.is_empty() {
        session.ui.warning(format!(
            "{} of this scan cannot be told apart from another: who names one of them means all of them",
            count(scan.twins, "letter")
        ));
    }
    let plan = |file: &str| format!("next: nexusctl dlq plan {queue} --selection {file}");
    match left.ending {
        Ending::Quit if !format.is_machine() => Ok(ExitStatus::Done),
        Ending::Quit | Ending::Print => {
            let ui = &mut session.ui;
            write_selection(&scans, &scan, &left.marked, format, &mut |bytes| ui.data(bytes))?;
            session.ui.status(format!("{marked} marked"));
            if left.ending == Ending::Print {
                session.ui.status(plan("-"));
            }
            Ok(ExitStatus::Done)
        }
        Ending::Written { path } => {
            let file = shell_word(&path);
            session.ui.status(format!("{marked} written to {file}"));
            session.ui.status(plan(&file));
            Ok(ExitStatus::Done)
        }
        Ending::Interrupted => Err(stopped(ExitStatus::Interrupted)),
    }
}

fn stopped(status: ExitStatus) -> CliError {
    CliError::new(code::STOPPED, status, "stopped; no letters were handed on")
}

fn need_terminal(session: &Session) -> Result<(), CliError> {
    let is_there = session.is_process && session.can_ask() && io::stdin().is_terminal();
    let is_dumb = session.environment.get("TERM") == Some("dumb");
    let why = match (is_there, is_dumb) {
        (true, false) => return Ok(()),
        (true, true) => "cannot browse: TERM is `dumb`, a terminal that nothing can be drawn on",
        (false, _) => "cannot browse: standard input and standard error are not both a terminal",
    };
    Err(CliError::usage(why)
        .hint("`nexusctl dlq groups` and `nexusctl dlq letters` tell the same without one"))
}

// ------------------------------------------------------------------ the terminal

/// Gives the terminal back. What fails here fails for want of a terminal.
fn restore() {
    let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// The terminal, while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
}

impl Screen {
    fn open() -> io::Result<Screen> {
        let before = std::panic::take_hook();
        // What a panic says would be lost with the screen it is said on.
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        let opened = Screen::take();
        if opened.is_err() {
            give_back();
        }
        opened
    }

    fn take() -> io::Result<Screen> {
        enable_raw_mode()?;
        execute!(io::stderr(), EnterAlternateScreen, Hide)?;
        let backend = CrosstermBackend::new(BufWriter::new(io::stderr()));
        Ok(Screen { terminal: Terminal::new(backend)? })
    }

    fn draw(&mut self, view: &Browse, palette: Palette) -> io::Result<()> {
        self.terminal.draw(|frame| draw(view, palette, frame)).map(|_| ())
    }
}

fn give_back() {
    restore();
    if !std::thread::panicking() {
        // The one before is inside ours and cannot be had back; it was the default.
        drop(std::panic::take_hook());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// What comes to the view, or that nothing more can come.
enum Heard {
    Event(Event),
    Lost(String),
}

/// Listens to keys, on a thread that ends with it: nobody else must find keys missing.
struct Keys {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How often the thread looks whether it is still needed.
const PATIENCE: Duration = Duration::from_millis(50);

impl Keys {
    fn listen(send: UnboundedSender<Heard>) -> Keys {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let heard = match event::poll(PATIENCE) {
                    Ok(false) => continue,
                    Ok(true) => event::read().map(|event| of_terminal(&event)),
                    Err(error) => Err(error),
                };
                let heard = match heard {
                    Ok(None) => continue,
                    Ok(Some(event)) => Heard::Event(event),
                    Err(error) => Heard::Lost(format!("cannot read the terminal: {error}")),
                };
                let is_last = matches!(heard, Heard::Lost(_));
                if send.send(heard).is_err() || is_last {
                    return;
                }
            }
        });
        Keys { over, thread: Some(thread) }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        // On a terminal that is gone the read never ends; the process does.
        for _ in 0..10 {
            if thread.is_finished() {
                let _ = thread.join();
                return;
            }
            std::thread::sleep(PATIENCE);
        }
    }
}

fn of_terminal(event: &event::Event) -> Option<Event> {
    match event {
        event::Event::Key(key) if key.kind != KeyEventKind::Release => key_of(*key).map(Event::Key),
        event::Event::Resize(columns, rows) => Some(Event::Size(*columns, *rows)),
        _ => None,
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char('u') if control => Key::Clear,
        KeyCode::Char('h') if control => Key::Backspace,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        _ => return None,
    })
}

// ---------------------------------------------------------------------- the view

async fn look(
    args: &BrowseArgs,
    scans: &Scans,
    scan: &Scan,
    session: &Session,
) -> Result<Left, CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let fault = |error: io::Error| CliError::failed(format!("cannot use the terminal: {error}"));
    let mut hangups = signal(SignalKind::hangup()).map_err(fault)?;
    let mut view = view_of(args, scans, scan, session, size().map_err(fault)?)?;
    let palette = Palette { color: session.ui.stderr_style.color };
    let (send, mut receive) = unbounded_channel();
    let desk = Desk {
        scans: scans.clone(),
        scan: scan.clone(),
        send: send.clone(),
        filter: Arc::new(AtomicU64::new(0)),
        cwd: session.cwd.clone(),
        replaces: args.out.clone(),
    };
    let mut screen = Screen::open().map_err(fault)?;
    let _keys = Keys::listen(send);
    let mut effects = view.step(Event::Size(view.size.0, view.size.1));
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        for effect in effects.drain(..) {
            if let Effect::End(ending) = effect {
                return Ok(Left { ending, marked: view.marks.places });
            }
            desk.take(effect, &view);
        }
        screen.draw(&view, palette).map_err(fault)?;
        let heard = tokio::select! {
            biased;
            () = session.stop.job().until(Wish::Finish) => {
                return Err(stopped(session.stop.status()));
            }
            _ = hangups.recv() => return Err(stopped(Signal::Terminate.status())),
            // Whoever has no controlling terminal is not told that it is gone.
            _ = ticks.tick() => {
                if !io::stderr().is_terminal() {
                    return Err(CliError::failed("cannot go on: the terminal is gone"));
                }
                continue;
            }
            heard = receive.recv() => heard,
        };
        view.now = session.clock.now();
        effects = hear(&mut view, heard, &mut receive)?;
    }
}

/// Takes what came, and what else has come meanwhile, before anything is drawn.
fn hear(
    view: &mut Browse,
    heard: Option<Heard>,
    receive: &mut UnboundedReceiver<Heard>,
) -> Result<Vec<Effect>, CliError> {
    let mut effects = Vec::new();
    let mut next = heard;
    while let Some(heard) = next.take() {
        match heard {
            Heard::Event(event) => effects.extend(view.step(event)),
            Heard::Lost(why) => return Err(CliError::failed(why)),
        }
        let ends = effects.iter().any(|effect| matches!(effect, Effect::End(_)));
        next = if ends { None } else { receive.try_recv().ok() };
    }
    Ok(effects)
}

fn view_of(
    args: &BrowseArgs,
    scans: &Scans,
    scan: &Scan,
    session: &Session,
    size: (u16, u16),
) -> Result<Browse, CliError> {
    let groups = scans.group_count(scan.id)?;
    let mut view = Browse::new(scan.clone(), groups, session.clock.now(), size);
    view.can_unmask = args.unmask;
    view.unmask = args.unmask;
    view.prints = session.ui.format.is_machine();
    view.hand_over = match &args.out {
        Some(path) => HandOver::File(path.display().to_string()),
        None if view.prints || !session.ui.stdout_is_terminal() => HandOver::Print,
        None => HandOver::Ask,
    };
    Ok(view)
}

/// Reads and writes for the view, on threads of their own.
#[derive(Clone)]
struct Desk {
    scans: Scans,
    scan: Scan,
    send: UnboundedSender<Heard>,
    /// The filter that is waited for; one that finds another here gives up.
    filter: Arc<AtomicU64>,
    cwd: PathBuf,
    /// The file that may be written over: it was named on the command line.
    replaces: Option<PathBuf>,
}

impl Desk {
    fn take(&self, effect: Effect, view: &Browse) {
        if let Effect::Filter { turn, .. } = &effect {
            self.filter.store(*turn, Ordering::Relaxed);
        }
        let marked = match &effect {
            Effect::Write { .. } => view.marks.places.clone(),
            _ => LetterSet::new(),
        };
        let (desk, now) = (self.clone(), view.now);
        let send = self.send.clone();
        let work = tokio::task::spawn_blocking(move || desk.answer(effect, &marked, now));
        tokio::spawn(async move {
            let heard = match work.await {
                Ok(None) => return,
                Ok(Some(data)) => Heard::Event(Event::Data(data)),
                Err(error) => Heard::Lost(format!("cannot read the scan: {error}")),
            };
            // Nobody listens any more once the view has ended.
            let _ = send.send(heard);
        });
    }

    fn answer(&self, effect: Effect, marked: &LetterSet, now: Timestamp) -> Option<Data> {
        let turn = match &effect {
            Effect::Write { path } => {
                let letters = self.write(path, marked).map_err(|error| match &error.hint {
                    Some(hint) => format!("{}; {hint}", error.message),
                    None => error.message.clone(),
                });
                return Some(Data::Written { path: path.clone(), letters });
            }
            Effect::Filter { turn, .. } => Some(*turn),
            _ => None,
        };
        let is_waited_for = || turn.is_none_or(|turn| self.filter.load(Ordering::Relaxed) == turn);
        let mut looked = |letters| {
            if let Some(turn) = turn {
                let _ = self.send.send(Heard::Event(Event::Data(Data::Looked { turn, letters })));
            }
            if is_waited_for() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let data = read(&self.scans, &self.scan, effect, now, &mut looked);
        // What a filter had found when nobody waited for it any more is not all.
        data.filter(|_| is_waited_for())
    }

    fn write(&self, path: &str, marked: &LetterSet) -> Result<u64, CliError> {
        let path = Path::new(path);
        let replaces = self.replaces.as_deref() == Some(path);
        let full = self.cwd.join(path);
        let mut options = OpenOptions::new();
        options.write(true);
        if replaces {
            options.create(true).truncate(true);
        } else {
            // A name that was typed must not cost what is there.
            options.create_new(true);
        }
        let fault = |error: &io::Error| CliError::unwritable(path, error);
        let file = options.open(&full).map_err(|error| fault(&error))?;
        let mut file = BufWriter::new(file);
        let format = match path.extension() {
            Some(extension) if extension == "ndjson" => Format::Ndjson,
            _ => Format::Json,
        };
        let mut out = |bytes: &[u8]| file.write_all(bytes).map_err(|error| fault(&error));
        let written = write_selection(&self.scans, &self.scan, marked, format, &mut out)
            .and_then(|letters| file.flush().map(|()| letters).map_err(|error| fault(&error)));
        if written.is_err() {
            // Half a selection is none.
            let _ = std::fs::remove_file(&full);
        }
        written
    }
}
