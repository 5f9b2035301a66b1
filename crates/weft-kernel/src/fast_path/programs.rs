//! The four programs: loaded, attached to devices by pinned tcx links, replaced in place.
//!
//! A link belongs to a device and dies with it, while its pin stays; so what is attached is always asked of the
//! device. Devices are named in the calling thread's namespace: see [`Namespace::run`].

use super::{
    failed,
    maps::{Maps, SHARED},
    pins::{Pins, make_folder, unpin},
};
use crate::{KernelError, Namespace};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use std::path::Path;

/// A program, by where it sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    /// At the near ends of containers' veth pairs.
    FromContainer,
    /// At the trunk's end in the host's namespace.
    ToWire,
    /// At the uplink.
    FromWire,
    /// At the trunk's end in the overlay namespace.
    ToContainer,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FromContainer, Self::ToWire, Self::FromWire, Self::ToContainer];

    /// Its name, which its function and its file have.
    pub fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::ToWire => "to_wire",
            Self::FromWire => "from_wire",
            Self::ToContainer => "to_container",
        }
    }

    fn object(self) -> &'static [u8] {
        match self {
            Self::FromContainer => include_bytes_aligned!(concat!(env!("OUT_DIR"), "/from_container.o")),
            Self::ToWire => include_bytes_aligned!(concat!(env!("OUT_DIR"), "/to_wire.o")),
            Self::FromWire => include_bytes_aligned!(concat!(env!("OUT_DIR"), "/from_wire.o")),
            Self::ToContainer => include_bytes_aligned!(concat!(env!("OUT_DIR"), "/to_container.o")),
        }
    }
}

/// A program in the kernel.
pub(super) struct Loaded {
    program: Program,
    object: Ebpf,
    id: u32,
}

impl Loaded {
    /// Loads a program. Its shared maps are the pinned ones, made if there are none; without `pins`, all its maps
    /// are its own, as small as can be.
    pub fn load(program: Program, pins: Option<&Pins>) -> Result<Self, KernelError> {
        let doing = format!("load program {}", program.name());
        let mut loader = EbpfLoader::new();
        // The programs use nothing of this kernel's own types.
        loader.btf(None);
        for name in SHARED {
            match pins {
                Some(pins) => loader.map_pin_path(name, pins.map(name)),
                None => loader.map_max_entries(name, 8),
            };
        }
        let mut object = loader.load(program.object()).map_err(|e| failed(&doing, &e))?;
        let id = classifier(&mut object, program).and_then(|classifier| {
            classifier.load()?;
            classifier.info().map(|info| info.id())
        });
        let id = id.map_err(|e| refused(doing, &e))?;
        Ok(Self { program, object, id })
    }

    /// Whether it sits at the device of that name.
    pub fn is_attached(&self, device: &str) -> bool {
        // A device that is not there has no programs.
        let found = SchedClassifier::query_tcx(device, TcAttachType::Ingress);
        found.is_ok_and(|(_, programs)| programs.iter().any(|program| program.id() == self.id))
    }

    /// Attaches it to a device, after the programs that are there, and pins the link at `pin`.
    pub fn attach(&mut self, device: &str, pin: Option<&Path>) -> Result<(), KernelError> {
        if self.is_attached(device) {
            return Ok(());
        }
        if let Some(pin) = pin {
            // The pin of a link that died with an earlier device, or that is not at this one.
            unpin(pin)?;
            pin.parent().map_or(Ok(()), make_folder)?;
        }
        let doing = format!("attach program {} to device {device}", self.program.name());
        let order = TcAttachOptions::TcxOrder(LinkOrder::last());
        let link = classifier(&mut self.object, self.program).and_then(|classifier| {
            let id = classifier.attach_with_options(device, TcAttachType::Ingress, order)?;
            classifier.take_link(id)
        });
        let link = link.map_err(|e| failed(&doing, &e))?;
        if let Some(pin) = pin {
            let link = FdLink::try_from(link).map_err(|e| failed(&doing, &e))?;
            link.pin(pin).map_err(|e| failed(doing, &e))?;
        }
        Ok(())
    }

    /// Takes over the pinned link at `pin`: its program is this one from now on, without a frame in between that meets
    /// none. A link that has died loses its pin.
    fn take_over(&mut self, pin: &Path) -> Result<(), KernelError> {
        let doing = format!("take over link {}", pin.display());
        let link = PinnedLink::from_pin(pin).map(FdLink::from).and_then(SchedClassifierLink::try_from);
        let link = link.map_err(|e| failed(&doing, &e))?;
        let taken = classifier(&mut self.object, self.program).and_then(|classifier| {
            let id = classifier.attach_to_link(link)?;
            // The pin holds the link.
            classifier.take_link(id).map(drop)
        });
        match taken {
            Ok(()) => Ok(()),
            Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(nix::libc::ENOLINK) => {
                unpin(pin)
            }
            Err(error) => Err(failed(doing, &error)),
        }
    }
}

/// All programs, with the pins of their maps and links.
pub(super) struct Programs {
    loaded: [Loaded; 4],
    pins: Pins,
}

impl Programs {
    /// Loads the programs on the pinned maps and puts them in the place of those that are attached.
    pub fn load(pins: &Pins) -> Result<(Self, Maps), KernelError> {
        pins.prepare(&Program::ALL.map(Program::name))?;
        let [a, b, c, d] = Program::ALL;
        let load = |program| Loaded::load(program, Some(pins));
        let mut loaded = [load(a)?, load(b)?, load(c)?, load(d)?];
        let maps = Maps::of(&mut loaded[0].object)?;
        for one in &mut loaded {
            pins.inherit_links(one.program.name())?;
            for pin in pins.linked(one.program.name())? {
                one.take_over(&pin)?;
            }
        }
        pins.remove_other_layouts()?;
        Ok((Self { loaded, pins: pins.clone() }, maps))
    }

    /// Whether every shared map is pinned: the next daemon would begin with empty ones.
    pub fn maps_are_pinned(&self) -> bool {
        SHARED.iter().all(|name| self.pins.map(name).exists())
    }

    /// Pins the shared maps that somebody has unpinned.
    pub fn pin_maps(&self) -> Result<(), KernelError> {
        if self.maps_are_pinned() {
            return Ok(());
        }
        self.pins.prepare(&Program::ALL.map(Program::name))?;
        for name in SHARED {
            let pin = self.pins.map(name);
            // The first program's maps are the tables', the others' are the same ones.
            if !pin.exists()
                && let Some(map) = self.of(Program::ToWire).object.map(name)
            {
                map.pin(&pin).map_err(|e| failed(format!("pin map {name}"), &e))?;
            }
        }
        Ok(())
    }

    fn of(&self, program: Program) -> &Loaded {
        &self.loaded[program as usize]
    }

    /// Which of these programs sit at which devices of `namespace`.
    pub fn are_attached(
        &self,
        namespace: &Namespace,
        wanted: &[(Program, &str)],
    ) -> Result<Vec<bool>, KernelError> {
        let look = || wanted.iter().map(|(program, device)| self.of(*program).is_attached(device)).collect();
        namespace.run(look)
    }

    /// Attaches a program to a device of `namespace`.
    pub fn attach(
        &mut self,
        namespace: &Namespace,
        program: Program,
        device: &str,
    ) -> Result<(), KernelError> {
        let pin = self.pins.link(program.name(), device);
        let loaded = &mut self.loaded[program as usize];
        namespace.run(|| loaded.attach(device, Some(&pin)))?
    }

    /// Detaches a program from all devices but those that `stays` names.
    pub fn detach_others(&self, program: Program, stays: &[&str]) -> Result<(), KernelError> {
        let kept: Vec<_> = stays.iter().map(|device| self.pins.link(program.name(), device)).collect();
        let pins = self.pins.linked(program.name())?;
        pins.iter().filter(|pin| !kept.contains(pin)).try_for_each(|pin| unpin(pin))
    }

    /// Detaches a program from a device.
    pub fn detach(&self, program: Program, device: &str) -> Result<(), KernelError> {
        unpin(&self.pins.link(program.name(), device))
    }
}

fn classifier(object: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, ProgramError> {
    let found = object.program_mut(program.name());
    found.ok_or(ProgramError::NotLoaded)?.try_into()
}

/// The kernel's words without the verifier's walk through the program: what it says last is why.
fn refused(doing: String, error: &ProgramError) -> KernelError {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return failed(doing, error) };
    let log = verifier_log.to_string();
    // Behind it stand figures.
    let figures = ["processed ", "stack depth ", "verification time "];
    let is_figure = |line: &str| figures.iter().any(|figure| line.starts_with(figure));
    let mut lines = log.lines().filter(|line| !line.is_empty() && !is_figure(line));
    let reason = match lines.next_back() {
        Some(line) => format!("{io_error}; the verifier says: {line}"),
        None => io_error.to_string(),
    };
    KernelError::FastPath { doing, reason }
}
