//! Images made of Debian's programs, for engines that reach no registry: `docker import` of a packed folder.

use crate::{
    LabError, Tools,
    command::{run, sh},
    tools::library_dirs,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, id},
};

/// What the nginx of [`Image::Nginx`] serves at `/`.
pub const NGINX_PAGE: &str = "This page came across weft.\n";

/// The version of the recipes below; a packed image of another version is not used.
const RECIPE: u32 = 1;

/// An image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `box`: busybox with all its applets (sh, wget, ping, nc, httpd, ip, sleep, sha256sum, …).
    Box,
    /// `nginx`: Debian's nginx, serving [`NGINX_PAGE`] on port 80.
    Nginx,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Box, Self::Nginx];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Nginx => "nginx",
        }
    }

    /// What `docker import --change` has to set.
    pub(crate) const fn changes(self) -> &'static [&'static str] {
        match self {
            Self::Box => &[r#"CMD ["sh"]"#],
            Self::Nginx => &[r#"CMD ["nginx","-g","daemon off;"]"#, "EXPOSE 80"],
        }
    }

    /// The packed image, made if it is not there.
    pub fn pack(self, tools: &Tools) -> Result<PathBuf, LabError> {
        let dir = tools.dir().join("images");
        let tar = dir.join(format!("{}-{RECIPE}.tar", self.name()));
        if tar.is_file() {
            return Ok(tar);
        }
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
        // Under a name of its own until it is complete: another run may be packing the same.
        let root = dir.join(format!("{}.{}", self.name(), id()));
        let new = dir.join(format!("{}.{}.tar", self.name(), id()));
        let packed = match self {
            Self::Box => fill_box(&root),
            Self::Nginx => tools.nginx().and_then(|packages| fill_nginx(&root, &packages)),
        }
        .and_then(|()| run(Command::new("tar").arg("-cf").arg(&new).arg("-C").arg(&root).arg(".")))
        .and_then(|_| fs::rename(&new, &tar).map_err(LabError::file(&tar)));
        if root.exists() {
            fs::remove_dir_all(&root).map_err(LabError::file(&root))?;
        }
        packed.map(|()| tar)
    }
}

fn fill_box(root: &Path) -> Result<(), LabError> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|p| p.is_file());
    let busybox = busybox.ok_or_else(|| LabError::Missing {
        program: "busybox".to_owned(),
        path: PathBuf::from("/bin/busybox"),
    })?;
    skeleton(root)?;
    copy(&busybox, &root.join("bin/busybox"))?;
    for applet in sh(&[&busybox.display().to_string(), "--list"])?.lines().filter(|a| *a != "busybox") {
        let link = root.join("bin").join(applet);
        symlink("busybox", &link).map_err(LabError::file(&link))?;
    }
    Ok(())
}

fn fill_nginx(root: &Path, packages: &Path) -> Result<(), LabError> {
    skeleton(root)?;
    let nginx = packages.join("usr/sbin/nginx");
    copy(&nginx, &root.join("bin/nginx"))?;
    for library in libraries(&nginx, packages)? {
        // At the path where the program was linked to find it; unpacked ones at the usual one.
        let place = library.strip_prefix(packages).unwrap_or(&library);
        copy(&library, &root.join(place.strip_prefix("/").unwrap_or(place)))?;
    }
    write(
        &root.join("etc/nginx/nginx.conf"),
        "user root;\nworker_processes 1;\nerror_log stderr;\npid /run/nginx.pid;\nevents {}\n\
         http {\n  access_log off;\n  default_type text/plain;\n  \
         server { listen 80; listen [::]:80; root /var/www; }\n}\n",
    )?;
    write(&root.join("var/www/index.html"), NGINX_PAGE)?;
    for dir in ["var/log/nginx", "var/lib/nginx"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
    }
    Ok(())
}

/// The shared libraries and the loader that a program needs, as ldd finds them.
fn libraries(program: &Path, packages: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LD_LIBRARY_PATH", library_dirs(packages).join(":"));
    let text = run(&mut ldd)?;
    if text.contains("not found") {
        return Err(LabError::Answer { what: format!("ldd {}", program.display()), answer: text });
    }
    let mut found: Vec<PathBuf> = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .filter(|path| path != program && path.is_file())
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The folders and accounts that every image has.
fn skeleton(root: &Path) -> Result<(), LabError> {
    for dir in ["bin", "etc", "tmp", "run", "root", "var/www"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).map_err(LabError::file(&dir))?;
    }
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    write(&root.join("etc/group"), "root:x:0:\n")
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(LabError::file(dir))?;
    }
    fs::write(path, text).map_err(LabError::file(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(LabError::file(dir))?;
    }
    fs::copy(from, to).map(drop).map_err(LabError::file(from))
}
