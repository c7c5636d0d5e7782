//! What the standard library does not offer. The only file with `unsafe`.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_loadu_si128,
    _mm_set_epi64x, _mm_srli_si128, _mm_xor_si128,
};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_arch = "x86_64")]
use crate::record::crc;

/// Takes the exclusive `flock` of an open file without waiting.
///
/// `Ok(false)`: somebody else holds it. It belongs to the open file description and goes with its
/// last descriptor, so that a forked child's `close` lets go of nothing.
pub(crate) fn try_flock(file: &File) -> io::Result<bool> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Lets go of the `flock` of an open file, whoever else has a descriptor of it.
pub(crate) fn unlock(file: &File) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}

/// May files be made in this directory?
///
/// # Errors
/// If not: why.
pub(crate) fn check_writable(dir: &Path) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a NUL and lives until the call returns.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does a process with this number exist, whoever it belongs to?
pub(crate) fn process_exists(pid: i32) -> bool {
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 only asks; no memory is involved.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Can anybody on this machine, in whatever namespace, write to this file through a descriptor that
/// is open now? `file` is open for reading only.
///
/// Asks for a read lease, which is granted only if nobody can. Whoever opens the file for writing
/// in the moment until it is given back waits for that moment.
///
/// # Errors
/// EACCES: only the file's owner may ask. Others: the file system, or the system, cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn is_open_for_writing(file: &File) -> io::Result<bool> {
    /// Linux's number; the libc crate does not have it everywhere.
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // The signal for whoever stands in a writer's way would be SIGIO, which kills; SIGURG is
    // ignored unless the program wants it, and then it has to expect it at any time.
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is involved.
    let taken = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    let error = io::Error::last_os_error();
    if taken {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Ok(false);
    }
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Ok(true),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_open_for_writing(_: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Remembers the process that made it, so that a forked child can be told from its parent.
///
/// Asking for the process ID is a system call, too dear for each append. Linux can be asked to
/// empty a page in every child instead (`madvise(2)`, `MADV_WIPEONFORK`).
pub(crate) struct Process {
    id: u32,
    page: Option<NonNull<AtomicBool>>,
}

// SAFETY: the page is only read after it was made, and through an atomic.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

const PAGE: usize = 4096;

impl Process {
    pub fn this() -> Process {
        Process {
            id: std::process::id(),
            page: wiped_on_fork(),
        }
    }

    /// Is this still the process in which it was made?
    pub fn is_this(&self) -> bool {
        match self.page {
            // SAFETY: the page is mapped until `self` is dropped, and zero or one in its first byte.
            Some(page) => unsafe { page.as_ref() }.load(Ordering::Relaxed),
            None => self.id == std::process::id(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: it was mapped with this length, and nobody refers to it any more.
            unsafe { libc::munmap(page.as_ptr().cast(), PAGE) };
        }
    }
}

/// A page that says yes, and in a forked child no; `None` where that is not to be had.
#[cfg(target_os = "linux")]
fn wiped_on_fork() -> Option<NonNull<AtomicBool>> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at a place of the system's choice touches no other memory.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page was mapped just now, with this length or more.
    let wiped = unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } == 0;
    let Some(page) = NonNull::new(page.cast::<AtomicBool>()).filter(|_| wiped) else {
        // SAFETY: as above, and nobody else knows of it.
        unsafe { libc::munmap(page, PAGE) };
        return None;
    };
    // SAFETY: the page is zeroed, so that this is a valid place.
    unsafe { page.as_ref() }.store(true, Ordering::Relaxed);
    Some(page)
}

#[cfg(not(target_os = "linux"))]
fn wiped_on_fork() -> Option<NonNull<AtomicBool>> {
    None
}

/// Random bytes from the kernel, so that forked processes do not repeat each other's.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is a valid buffer of exactly that length.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

/// Gives the space of the first `len` bytes of a file back; they read as NUL from now on.
#[cfg(target_os = "linux")]
pub(crate) fn punch_hole(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is involved.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn punch_hole(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Where a byte stands first.
pub(crate) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer and the length are those of a slice.
    let at = unsafe { libc::memchr(bytes.as_ptr().cast(), byte.into(), bytes.len()) };
    (!at.is_null()).then(|| at as usize - bytes.as_ptr() as usize)
}

/// What `bytes` make of the register of a CRC-32 (see `crc`). `None`: too few bytes, or not with
/// this processor.
#[cfg(target_arch = "x86_64")]
pub(crate) fn multiply(register: u32, bytes: &[u8]) -> Option<u32> {
    // What is more than whole blocks is dealt with first: zeros before a message change nothing,
    // and the register belongs to the message's own first bytes.
    let odd = bytes.len() % 16;
    let (front, blocks) = bytes.split_at_checked(16 + odd)?;
    if !std::is_x86_feature_detected!("pclmulqdq") {
        return None;
    }
    let mut first = [0; 32];
    first[16 - odd..].copy_from_slice(front);
    for (byte, register) in first[16 - odd..].iter_mut().zip(register.to_le_bytes()) {
        *byte ^= register;
    }
    // SAFETY: the processor has the instruction.
    Some(unsafe { multiply_blocks(&first, blocks) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn multiply(_register: u32, _bytes: &[u8]) -> Option<u32> {
    None
}

/// Blocks of 16 bytes: four side by side, then one by one, and from 128 bits to the register.
///
/// # Safety
/// The processor has PCLMULQDQ.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "pclmulqdq")]
unsafe fn multiply_blocks(first: &[u8; 32], mut rest: &[u8]) -> u32 {
    const BY_ONE: [u64; 2] = crc::factors(1);
    const BY_FOUR: [u64; 2] = crc::factors(4);
    const FACTORS: [u64; 3] = crc::reduction();
    let [from_64, polynomial, quotient] = FACTORS;
    // SAFETY: every load is of a part of the slice or the array that it names, without alignment.
    // The instruction is there.
    unsafe {
        let part = |bytes: &[u8], n: usize| {
            debug_assert!(bytes.len() >= 16 * (n + 1));
            _mm_loadu_si128(bytes.as_ptr().cast::<__m128i>().add(n))
        };
        let mut folded = carry(part(first, 0), BY_ONE, part(first, 1));
        if let Some((blocks, behind)) = rest.split_first_chunk::<64>() {
            let mut lanes = [0, 1, 2, 3].map(|n| part(blocks, n));
            lanes[0] = carry(folded, BY_ONE, lanes[0]);
            rest = behind;
            while let Some((blocks, behind)) = rest.split_first_chunk::<64>() {
                for (n, lane) in lanes.iter_mut().enumerate() {
                    *lane = carry(*lane, BY_FOUR, part(blocks, n));
                }
                rest = behind;
            }
            folded = lanes[0];
            for lane in &lanes[1..] {
                folded = carry(folded, BY_ONE, *lane);
            }
        }
        while let Some((block, behind)) = rest.split_first_chunk::<16>() {
            folded = carry(folded, BY_ONE, part(block, 0));
            rest = behind;
        }
        let low = _mm_set_epi64x(0, 0xFFFF_FFFF);
        let times = |bits, factor: u64| {
            _mm_clmulepi64_si128::<0x00>(bits, _mm_set_epi64x(0, factor as i64))
        };
        // To 96 bits, to 64, and then without a division (P. Barrett, 1986): the quotient by one
        // multiplication, what it stands for by another.
        let folded = _mm_xor_si128(times(folded, BY_ONE[1]), _mm_srli_si128::<8>(folded));
        let rest = _mm_srli_si128::<4>(folded);
        let folded = _mm_xor_si128(times(_mm_and_si128(folded, low), from_64), rest);
        let quotient = _mm_and_si128(times(_mm_and_si128(folded, low), quotient), low);
        let folded = _mm_xor_si128(folded, times(quotient, polynomial));
        (_mm_cvtsi128_si64(folded) as u64 >> 32) as u32
    }
}

/// Adds a block to one further on.
///
/// # Safety
/// The processor has PCLMULQDQ.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "pclmulqdq")]
#[allow(unused_unsafe)] // Since Rust 1.87 these are safe here.
unsafe fn carry(block: __m128i, factors: [u64; 2], further_on: __m128i) -> __m128i {
    // SAFETY: no memory is involved, and the instruction is there.
    unsafe {
        let factors = _mm_set_epi64x(factors[1] as i64, factors[0] as i64);
        let first = _mm_clmulepi64_si128::<0x00>(block, factors);
        let second = _mm_clmulepi64_si128::<0x11>(block, factors);
        _mm_xor_si128(further_on, _mm_xor_si128(first, second))
    }
}

/// The size of the file system that holds a path, and what an ordinary user may still write to it,
/// in bytes.
pub(crate) fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is a valid one; the path ends in a NUL, and `space` is a valid
    // place for the answer.
    let space = unsafe {
        let mut space: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut space) != 0 {
            return Err(io::Error::last_os_error());
        }
        space
    };
    // The width of these fields differs between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let bytes = |blocks| (blocks as u64).saturating_mul(space.f_frsize as u64);
    Ok((bytes(space.f_blocks), bytes(space.f_bavail)))
}

/// Is there a limit on the size of files (`ulimit -f`)?
pub(crate) fn file_size_is_limited() -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    answer == 0 && limit.rlim_cur != libc::RLIM_INFINITY
}

/// Runs `write` with SIGXFSZ kept from this thread, and leaves the thread's mask as it was.
pub(crate) fn without_sigxfsz<T>(write: impl FnOnce() -> T) -> T {
    let before = block_sigxfsz();
    let result = write();
    // SAFETY: both sets are valid; the null timeout fields mean "do not wait"; taking the signal
    // that our own write may have raised changes no memory.
    unsafe {
        let set = sigxfsz();
        if libc::sigismember(&before, libc::SIGXFSZ) == 0 {
            let now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            libc::sigtimedwait(&set, std::ptr::null_mut(), &now);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
    result
}

/// Keeps SIGXFSZ from this thread: a write above the limit then fails with EFBIG instead of killing
/// the program. Returns which signals were kept from it before.
pub(crate) fn block_sigxfsz() -> libc::sigset_t {
    // SAFETY: both sets are valid places; only this thread's signal mask changes.
    unsafe {
        let set = sigxfsz();
        let mut before = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before);
        before
    }
}

fn sigxfsz() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a valid place for sigemptyset to initialise.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGXFSZ);
        set
    }
}

/// Becomes true when the process is asked to end.
static TERMINATE: AtomicBool = AtomicBool::new(false);

extern "C" fn terminate(_signal: libc::c_int) {
    // An atomic store is all that is safe here, and all that is needed.
    TERMINATE.store(true, Ordering::Relaxed);
}

/// From now on the first SIGTERM and the first SIGINT set the flag that is returned; the second
/// of its sort ends the process as it always did. A signal that is ignored (as `nohup` and a
/// shell's `&` have it) stays ignored.
pub fn on_terminate() -> &'static AtomicBool {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: both structures are valid, all-zero being a valid sigaction; the handler does
        // nothing but an atomic store.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if action.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            action = std::mem::zeroed();
            action.sa_sigaction = terminate as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
    &TERMINATE
}
