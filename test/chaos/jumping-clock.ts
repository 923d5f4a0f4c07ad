/*
 * Loaded before the product by `node --import`, for tests only: each SIGUSR2 sets the clock of this process
 * as an operator or a hypervisor might. The steady clock only ever leaps forward, as after a long sleep.
 */
const HOUR_MS = 3_600_000;
const JUMPS = [
  { wallMs: HOUR_MS, steadyMs: 0 },
  { wallMs: -2 * HOUR_MS, steadyMs: 0 },
  { wallMs: HOUR_MS, steadyMs: HOUR_MS },
];

const wall = Date.now.bind(Date);
const steady = performance.now.bind(performance);
let wallMs = 0;
let steadyMs = 0;
let jumps = 0;
Date.now = () => wall() + wallMs;
performance.now = () => steady() + steadyMs;
process.on('SIGUSR2', () => {
  const jump = JUMPS[jumps % JUMPS.length];
  jumps += 1;
  wallMs += jump?.wallMs ?? 0;
  steadyMs += jump?.steadyMs ?? 0;
});
