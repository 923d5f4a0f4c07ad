// Preloaded by `npm start`: when npm is killed, what it started must not go on alone. SIGTERM is how
// everything stops in order. (Ctrl-C and a closed terminal reach us by themselves.)
const POLL_MS = 500;
const parent = process.ppid;

setInterval(() => {
  if (process.ppid !== parent) process.kill(process.pid, 'SIGTERM');
}, POLL_MS).unref();
