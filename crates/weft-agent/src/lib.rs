//! The loop that ties store, plan and kernel together, and the daemon's API.
