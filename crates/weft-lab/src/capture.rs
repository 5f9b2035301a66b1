//! Frames as they pass a device, for tests and for the demo: tcpdump writes them, this reads them.
//!
//! The file format is pcap, classic, as draft-ietf-opsawg-pcap describes it.

use crate::{LabError, NetNs, Process, until};
use nix::sys::signal::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A frame from a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was seen, since the Unix epoch.
    pub when: Duration,
    /// The frame from its Ethernet header on, without the check sequence.
    pub bytes: Vec<u8>,
}

/// A capture under way. It ends when dropped; its file stays.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes `device` in a namespace and matches `filter` (pcap-filter(7); empty: everything), and
    /// returns when the capture runs. The frames go to `file`, tcpdump's messages beside it.
    pub fn start(namespace: &NetNs, device: &str, filter: &str, file: &Path) -> Result<Self, LabError> {
        let mut command = namespace.command("tcpdump");
        command.args(["-i", device, "-n", "-U", "-s", "0", "--immediate-mode", "-B", "16384", "-Z", "root"]);
        command.arg("-w").arg(file);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let log = file.with_extension("tcpdump.log");
        if log.exists() {
            fs::remove_file(&log).map_err(LabError::file(&log))?;
        }
        let process = Process::spawn("tcpdump", &mut command, &log)?;
        let capture = Self { process, file: file.to_owned() };
        until("the start of the capture", Duration::from_secs(10), || {
            let log = capture.process.log_tail(5);
            // The file's header is written after the message, so that it can be read from here on.
            let header = fs::metadata(&capture.file).is_ok_and(|m| m.len() >= 24);
            if log.contains("listening on") && header { Ok(()) } else { Err(log) }
        })?;
        Ok(capture)
    }

    /// The frames so far.
    pub fn frames(&self) -> Result<Vec<Frame>, LabError> {
        let bytes = fs::read(&self.file).map_err(LabError::file(&self.file))?;
        parse(&bytes).ok_or_else(|| LabError::Answer {
            what: self.file.display().to_string(),
            answer: "not a pcap file".to_owned(),
        })
    }

    /// Waits until the frames satisfy a condition and returns them.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        condition: impl Fn(&[Frame]) -> bool,
    ) -> Result<Vec<Frame>, LabError> {
        let (frames, _) = until(what, timeout, || {
            let frames = self.frames().map_err(|e| e.to_string())?;
            if condition(&frames) { Ok(frames) } else { Err(format!("{} frames", frames.len())) }
        })?;
        Ok(frames)
    }

    /// Ends the capture and returns its frames.
    pub fn stop(self) -> Result<Vec<Frame>, LabError> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(5))?;
        self.frames()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            eprintln!("weft-lab: {error}");
        }
    }
}

/// The frames of a pcap file; one that is cut off at the end is left out. `None` if it is not a pcap file of
/// this machine's byte order.
fn parse(file: &[u8]) -> Option<Vec<Frame>> {
    let word = |at: usize| Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?));
    // 0xa1b2c3d4: times in microseconds; 0xa1b23c4d: in nanoseconds.
    let nanos_per_tick = match word(0)? {
        0xa1b2_c3d4 => 1000,
        0xa1b2_3c4d => 1,
        _ => return None,
    };
    let mut frames = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(ticks), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
        let start = at + 16;
        let end = start + length as usize;
        let Some(bytes) = file.get(start..end) else { break };
        let when =
            Duration::new(u64::from(seconds), 0) + Duration::from_nanos(u64::from(ticks) * nanos_per_tick);
        frames.push(Frame { when, bytes: bytes.to_vec() });
        at = end;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        bytes.resize(24, 0);
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            for word in [7, 250_000, length, length] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(*frame);
        }
        bytes
    }

    #[test]
    fn a_file_is_read_frame_by_frame() {
        let frames = parse(&file(&[b"one", b"three"])).unwrap();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1].bytes, b"three");
        assert_eq!(frames[0].when, Duration::from_millis(7250));
    }

    #[test]
    fn a_frame_that_is_still_being_written_is_left_out() {
        let mut bytes = file(&[b"one", b"two"]);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(parse(&bytes).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_a_pcap_file_is_refused() {
        assert!(parse(b"GIF89a and more than twenty-four bytes").is_none());
        assert!(parse(b"").is_none());
    }
}
