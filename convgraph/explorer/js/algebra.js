// Rank and cost, counted: rank is exact, because a float is a whole number times a power of two.

// A prime below 2^26: products of two residues stay below 2^53 and so are exact.
const PRIME = 67108859;

// Rank of a matrix given as rows of numbers.
export function rank(rows) {
  const whole = rows.map(integers).filter((row) => row.some((v) => v !== 0n));
  if (!whole.length) return 0;
  const most = Math.min(whole.length, whole[0].length);
  // The rank modulo a prime never exceeds the rank, so a full one is proof and the rest is counted.
  const residues = whole.map((row) => row.map((v) => Number(((v % BigInt(PRIME)) + BigInt(PRIME)) % BigInt(PRIME))));
  return rankModulo(residues) === most ? most : rankExact(whole);
}

// A row of floats times the power of two that makes all of them whole, as BigInts.
function integers(row) {
  let scale = 0;
  for (let v of row) {
    let halvings = 0;
    while (!Number.isInteger(v) && halvings < 1100) { v *= 2; halvings++; }
    scale = Math.max(scale, halvings);
  }
  return row.map((v) => {
    let left = scale;
    while (left > 0 && !Number.isInteger(v)) { v *= 2; left--; }
    return BigInt(v) << BigInt(left);
  });
}

function rankModulo(rows) {
  let found = 0;
  for (let column = 0; column < rows[0].length && found < rows.length; column++) {
    const pivot = rows.findIndex((row, i) => i >= found && row[column] !== 0);
    if (pivot < 0) continue;
    [rows[found], rows[pivot]] = [rows[pivot], rows[found]];
    const inverse = power(rows[found][column], PRIME - 2);
    for (let i = found + 1; i < rows.length; i++) {
      if (!rows[i][column]) continue;
      const factor = (rows[i][column] * inverse) % PRIME;
      for (let j = column; j < rows[i].length; j++) {
        rows[i][j] = (rows[i][j] + (PRIME - factor) * rows[found][j] % PRIME) % PRIME;
      }
    }
    found++;
  }
  return found;
}

function power(base, exponent) {
  let result = 1;
  for (let b = base; exponent > 0; exponent = Math.floor(exponent / 2), b = (b * b) % PRIME) {
    if (exponent % 2) result = (result * b) % PRIME;
  }
  return result;
}

// Fraction-free elimination (Bareiss): every division leaves no remainder.
function rankExact(rows) {
  let found = 0, last = 1n;
  for (let column = 0; column < rows[0].length && found < rows.length; column++) {
    const pivot = rows.findIndex((row, i) => i >= found && row[column] !== 0n);
    if (pivot < 0) continue;
    [rows[found], rows[pivot]] = [rows[pivot], rows[found]];
    const head = rows[found];
    for (let i = found + 1; i < rows.length; i++) {
      const factor = rows[i][column];
      for (let j = column; j < head.length; j++) {
        rows[i][j] = (rows[i][j] * head[column] - factor * head[j]) / last;
      }
    }
    last = head[column];
    found++;
  }
  return found;
}

// The slice W[:, c, :] of each input channel; a depthwise-separable layer can be this convolution
// exactly when the rank of every slice is at most 1.
export function sliceRanks(weightOf, outs, ins, taps) {
  return Array.from({ length: ins }, (_, c) =>
    rank(Array.from({ length: outs }, (_, o) =>
      Array.from({ length: taps }, (_, t) => weightOf(o, c, t)))));
}

// W as the matrix (C_out, C_in K) that multiplies a neighbourhood.
export function layerRank(weightOf, outs, ins, taps) {
  return rank(Array.from({ length: outs }, (_, o) =>
    Array.from({ length: ins * taps }, (_, i) => weightOf(o, Math.floor(i / taps), i % taps))));
}

// Factors of a kernel whose slices have rank 1 (or 0): W[o, c, t] = pointwise[o, c] * depthwise[c, t].
// null where whole numbers or floats would not give the kernel back exactly.
export function factor(weightOf, outs, ins, taps) {
  const depthwise = [], pointwise = new Array(outs * ins).fill(0);
  for (let c = 0; c < ins; c++) {
    const rows = Array.from({ length: outs }, (_, o) =>
      Array.from({ length: taps }, (_, t) => weightOf(o, c, t)));
    const lead = rows.find((row) => row.some((v) => v !== 0)) ?? new Array(taps).fill(0);
    const common = lead.every(Number.isInteger) ? Math.abs(lead.reduce(gcd, 0)) || 1 : 1;
    const base = lead.map((v) => v / common);
    const at = base.findIndex((v) => v !== 0);
    rows.forEach((row, o) => { pointwise[o * ins + c] = at < 0 ? 0 : row[at] / base[at]; });
    const same = rows.every((row, o) => row.every((v, t) => v === pointwise[o * ins + c] * base[t]));
    if (!same) return null;
    depthwise.push(...base);
  }
  return { depthwise, pointwise };
}

function gcd(a, b) {
  [a, b] = [Math.abs(a), Math.abs(b)];
  while (b) [a, b] = [b, a % b];
  return a;
}

// Multiplications of a layer on a graph: every edge multiplies a C_in / G by C_out matrix.
export function cost(edges, ins, outs, groups) {
  return edges * (ins / groups) * outs;
}
