//! A whole project directory: `init`, `check`, `quickstart`.
