//! One file per container engine: its protocol in, weft's verbs out.
