// Kernels of the backend `cpp`: one pass reads neighbours through a rank grid, multiplies, and
// writes once.
//
//     send(x, T, b)      y[p]  = b + sum over slots of  x[q] @ T[kind[s]]
//     correlate(x, g)    T[t]  = sum over sites of  x[q]^T g[p]
//
// where q = grid[base[p] + offset[s]]. A negative q is an edge that is not there, at no cost, and so
// are the edges of a tap that a footprint leaves out: its offset says so. And, where a tap hears
// between pixels, with a bag of weighted rows for each site and tap:
//
//     send_bags(x, T, b)      y[p]  = b + sum over taps t of  (sum over i in bag (p, t) of
//                                      weight[i] x[rows[i]]) @ T[t]
//     correlate_bags(x, g)    T[t]  = sum over sites of  (the same sum of rows)^T g[p]
//
// No gathered row is ever written to memory: within a block of sites the rows that a tap hears are
// listed, and a few of them at a time are multiplied while their sums stay in registers.
//
// Blocks and parts follow from sizes alone, never from the number of threads; each number has one
// owner and one order of additions, so results repeat bit for bit.

// Of ATen no more than is called: <ATen/ATen.h> is seconds more of a compiler's time.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;

// -- Registers -----------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif

template <class T>
struct Lanes {
  typedef T vector __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vec = typename Lanes<T>::vector;
template <class T>
constexpr int64_t LANES = BYTES / sizeof(T);

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

// Rows whose sums stay in registers beside V vectors of a factor, one vector left for the other.
template <int V>
constexpr int ROWS = std::min((REGISTERS - V - 1) / V, 14);

constexpr int PANEL = REGISTERS / 8;   // vectors of output channels that are computed together
constexpr int64_t BLOCK = 64;          // sites that are computed together: a tile of the order
constexpr int64_t HEADS = 128;         // sites whose edges are listed together for a gradient
constexpr int64_t DEPTH = 64;          // input channels whose weights stay in the nearest cache
constexpr int64_t RUN = 8;             // most slots that are added up without a look at their sums
constexpr int64_t NEAR = 1 << 13;      // most numbers of the weights of a run
constexpr int64_t PART = 1024;         // fewest sites of one part of a weight gradient
constexpr int64_t ELEMENTS = 1 << 24;  // most elements of all parts together
constexpr int64_t LINE = 64;           // bytes that come from memory together

constexpr int64_t ABSENT = std::numeric_limits<int64_t>::min();  // offset of a tap that no site has

// One direction of the edges. Slots of absent taps are passed over.
struct Side {
  const int* grid;
  const int64_t *base, *order;
  std::vector<int64_t> offset, kind, number;  // of each slot; which it is among all
  int64_t sites, slots;

  Side(const Tensor& who, const Tensor& rows, const Tensor& taps)
      : grid(who.const_data_ptr<int>()), sites(rows.size(1)) {
    base = rows.const_data_ptr<int64_t>();
    order = base + sites;
    const int64_t all = taps.size(1), *const at = taps.const_data_ptr<int64_t>();
    for (int64_t s = 0; s < all; ++s) {
      if (at[s] == ABSENT) continue;
      offset.push_back(at[s]), kind.push_back(at[all + s]), number.push_back(s);
    }
    slots = offset.size();
  }
};

// -- Who hears whom ------------------------------------------------------------------------------

constexpr int64_t EIGHT = 8;
typedef int Ints __attribute__((vector_size(EIGHT * sizeof(int)), may_alias));
typedef int64_t Longs __attribute__((vector_size(EIGHT * sizeof(int64_t)), may_alias));

// Eight of `sites` sites from m on; where they are fewer, the last again and again.
struct Eight {
  const Side& side;
  std::array<int64_t, EIGHT> cell;
  int64_t away = 0;  // 0 where they count from cells side by side

  Eight(const Side& side_, int64_t m, int64_t sites) : side(side_) {
    if (sites >= EIGHT)
      std::memcpy(cell.data(), side.base + m, sizeof(cell));
    else
      for (int64_t k = 0; k < EIGHT; ++k) cell[k] = side.base[m + std::min(k, sites - 1)];
    for (int64_t k = 0; k < EIGHT; ++k) away |= cell[k] - cell[0] - k;
  }
  // The rows that they hear through a slot, negative where they hear none.
  void hear(int64_t slot, Longs& rows) const {
    const int* const at = side.grid + side.offset[slot];
    Ints found;
    if (away == 0)
      std::memcpy(&found, at + cell[0], sizeof(found));
    else
      for (int64_t k = 0; k < EIGHT; ++k) found[k] = at[cell[k]];
    rows = __builtin_convertvector(found, Longs);
  }
};

// Where rows lie, one after the other by `bytes`, from `first` on.
template <class T>
inline void places(const Longs& rows, const T* first, int64_t bytes, const T** to) {
  const Longs at = rows * bytes + reinterpret_cast<int64_t>(first);
  std::memcpy(to, &at, sizeof(at));
}

// -- Products ------------------------------------------------------------------------------------

// sums[r] += sum over i < slots and k of a[i][r][k] * b[i][k], for R rows and V vectors; of a one
// slot follows the other by `next` pointers, of b one k the other by `width` numbers. All sums begin
// with `start`, where there is one.
template <class T, int R, int V>
inline void multiply_rows(const T* const* a, int64_t next, const T* start, T* const* sums,
                          const T* const* b, int64_t width, int64_t slots, int64_t from,
                          int64_t depth) {
  constexpr int64_t L = LANES<T>;
  Vec<T> s[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) s[r][v] = load((start ? start : sums[r]) + v * L);
  for (int64_t i = 0; i < slots; ++i) {
    const T* row[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) row[r] = a[i * next + r] + from;
    const T* at = b[i] + from * width;
    for (int64_t k = 0; k < depth; ++k, at += width) {
      Vec<T> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(at + v * L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const T q = row[r][k];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) s[r][v] += q * w[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums[r] + v * L, s[r][v]);
}

// Call f(from, rows) with a number of rows, at most R, that the compiler knows.
template <int R, class F>
inline void by_rows(int64_t rows, int64_t from, F f) {
  if (rows == R) return f(from, std::integral_constant<int, R>());
  if constexpr (R > 1) by_rows<R - 1>(rows, from, f);
}

// Call f(from, R) for rows dealt out evenly into as few groups of R <= MOST rows as they need: a
// small last group would wait for its own sums.
template <int MOST, class F>
inline void dealt(int64_t rows, F f) {
  const int64_t groups = (rows + MOST - 1) / MOST;
  for (int64_t g = 0, from = 0; g < groups; ++g) {
    const int64_t some = (rows - from) / (groups - g);
    by_rows<MOST>(some, from, f);
    from += some;
  }
}

// sums[r] += sum over edges of a[e][r] * b[e], for R rows and V vectors
template <class T, int R, int V>
inline void correlate_rows(const T* const* a, const T* const* b, int64_t from, int64_t edges,
                           T* sums, int64_t stride) {
  constexpr int64_t L = LANES<T>;
  Vec<T> s[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) s[r][v] = load(sums + r * stride + v * L);
  for (int64_t e = 0; e < edges; ++e) {
    const T *p = a[e] + from, *q = b[e];
    Vec<T> w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = load(q + v * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) s[r][v] += p[r] * w[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + r * stride + v * L, s[r][v]);
}

template <class T, int V>
void outer(const T* const* a, const T* const* b, int64_t edges, int64_t channels, T* sums,
           int64_t stride) {
  dealt<ROWS<V>>(channels, [&](int64_t i, auto r) {
    correlate_rows<T, r, V>(a, b, i, edges, sums + i * stride, stride);
  });
}

// Call f with the number of vectors as a constant.
template <class F>
inline void by_width(int64_t vectors, F f) {
  switch (vectors) {
    case 4: return f(std::integral_constant<int, 4>());
    case 3: return f(std::integral_constant<int, 3>());
    case 2: return f(std::integral_constant<int, 2>());
    default: return f(std::integral_constant<int, 1>());
  }
}

// Rows that the next block will read. Whenever some rows are multiplied, as many of these are asked
// for: they come from memory meanwhile, and nothing waits for them.
template <class T>
struct Soon {
  std::array<const T*, BLOCK> row;
  int64_t rows = 0, asked = 0, channels = 0;

  // What `sites` sites from m on hear through the middle slot: most of what they hear at all.
  void list(const Side& side, int64_t m, int64_t sites, const T* x, int64_t stride,
            int64_t channels_) {
    rows = side.slots ? std::max<int64_t>(sites, 0) : 0, asked = 0, channels = channels_;
    for (int64_t e = 0; e < rows; e += EIGHT) {
      Longs heard;
      Eight(side, m + e, sites - e).hear(side.slots / 2, heard);
      places<T>(heard & ~(heard >> 63), x, stride * sizeof(T), &row[e]);
    }
  }
  void ask(int64_t more) {
    for (const int64_t last = std::min(rows, asked + more); asked < last; ++asked)
      for (int64_t c = 0; c < channels; c += LINE / sizeof(T)) __builtin_prefetch(row[asked] + c);
  }
};

// The same for any number of rows and vectors; `soon` are asked for meanwhile.
template <class T>
void multiply(const T* const* a, int64_t next, const T* start, T* const* sums, int64_t rows,
              const T* const* b, int64_t width, int64_t vectors, int64_t slots, int64_t from,
              int64_t depth, Soon<T>* soon = nullptr) {
  by_width(vectors, [&](auto v) {
    dealt<ROWS<v>>(rows, [&](int64_t i, auto r) {
      if (soon) soon->ask(r);
      multiply_rows<T, r, v>(a + i, next, start, sums + i, b, width, slots, from, depth);
    });
  });
}

inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step; }

// Call f(claim) on every thread; claim() gives the next task, and `tasks` or more when none is
// left. Whoever is awake takes the next: a second thread that sleeps may wake late. Which thread
// computes a task changes nothing in it.
template <class F>
void share(int64_t tasks, F f) {
  std::atomic<int64_t> next{0};
  const auto claim = [&] { return next.fetch_add(1, std::memory_order_relaxed); };
  at::parallel_for(0, std::min<int64_t>(tasks, at::get_num_threads()), 1,
                   [&](int64_t, int64_t) { f(claim); });
}

// -- send ----------------------------------------------------------------------------------------

// Output channels that are computed together: whole vectors, no more than there are channels for.
template <class T>
int64_t panel_width(int64_t channels) {
  return std::min<int64_t>(PANEL, up(channels, LANES<T>)) * LANES<T>;
}

// (panel, group, tap, C_in, width): the matrices as they are read, padded with zeros.
template <class T>
Tensor packed(const Tensor& taps) {
  const int64_t K = taps.size(0), G = taps.size(1), CI = taps.size(2), CO = taps.size(3);
  const int64_t width = panel_width<T>(CO), panels = up(CO, width);
  Tensor made = at::empty({panels, G, K, CI, width}, taps.options());
  T* to = made.mutable_data_ptr<T>();
  const T* from = taps.const_data_ptr<T>();
  const int64_t sk = taps.stride(0), sg = taps.stride(1), si = taps.stride(2), so = taps.stride(3);
  // A second thread would take longer to wake than to help with less.
  const int64_t grain = std::max<int64_t>(1, (1 << 17) / std::max<int64_t>(1, CI * width));
  at::parallel_for(0, panels * G * K, grain, [&](int64_t lo, int64_t hi) {
    for (int64_t j = lo; j < hi; ++j) {
      const int64_t c0 = j / K / G * width, n = std::min(width, CO - c0);
      const T* q = from + j % K * sk + j / K % G * sg + c0 * so;
      T* p = to + j * CI * width;
      if (n < width) std::fill(p, p + CI * width, T(0));
      if (so == 1) {
        for (int64_t i = 0; i < CI; ++i) std::memcpy(p + i * width, q + i * si, n * sizeof(T));
        continue;
      }
      for (int64_t c = 0; c < n; ++c)
        for (int64_t i = 0; i < CI; ++i) p[i * width + c] = q[i * si + c * so];
    }
  });
  return made;
}

// What the sites of a block hear, and who of them hears through the same slots.
template <class T>
struct Block {
  static constexpr int64_t KINDS = 8;  // most kinds of sites that are told apart
  static constexpr int64_t BITS = 64;  // most slots that a site is known by
  const Side& side;
  std::vector<const T*> row;          // (slots, BLOCK), before the first row where there is none
  std::array<uint64_t, BLOCK> deaf;   // a bit for each slot through which a site hears none
  std::array<uint64_t, KINDS> kind;   // the same bits
  std::array<int64_t, KINDS> count;   // sites of a kind
  std::array<std::array<int, BLOCK>, KINDS> who;
  int64_t kinds;

  explicit Block(const Side& side_) : side(side_), row(side_.slots * BLOCK) {}

  // Read what `sites` sites from m on hear; say whether there are so few kinds of them that each is
  // worth a run of its own, where fewer sites than `few` take as long as these.
  bool read(int64_t m, int64_t sites, const T* x, int64_t stride, int64_t few) {
    Longs any{};
    for (int64_t e = 0; e < sites; e += EIGHT) {
      const Eight eight(side, m + e, sites - e);
      Longs none{};
      for (int64_t s = 0; s < side.slots; ++s) {
        Longs heard;
        eight.hear(s, heard);
        places<T>(heard, x, stride * sizeof(T), &row[s * BLOCK + e]);
        none |= (heard >> 63) & int64_t(uint64_t(1) << s % BITS);
      }
      any |= none;
      std::memcpy(&deaf[e], &none, sizeof(none));
    }
    uint64_t all = 0;
    for (int64_t k = 0; k < EIGHT; ++k) all |= any[k];
    if (all == 0) {
      kinds = 1, kind[0] = 0, count[0] = sites;
      return true;
    }
    return side.slots <= BITS && sort(sites, few);
  }
  bool sort(int64_t sites, int64_t few) {
    kinds = 0;
    for (int64_t i = 0; i < sites; ++i) {
      int64_t k = 0;
      while (k < kinds && kind[k] != deaf[i]) ++k;
      if (k == KINDS) return false;
      if (k == kinds) kind[kinds] = deaf[i], count[kinds++] = 0;
      who[k][count[k]++] = i;
    }
    int64_t edges = 0, took = 0;
    for (int64_t k = 0; k < kinds; ++k) {
      const int64_t slots = side.slots - __builtin_popcountll(kind[k]);
      edges += slots * count[k];
      took += slots * std::max(count[k], few);
    }
    return 16 * took <= 17 * edges;
  }
};

template <class T>
void send_matrices(const T* x, const Tensor& taps, const T* bias, const Side& side, T* y) {
  const int64_t K = taps.size(0), G = taps.size(1), CI = taps.size(2), CO = taps.size(3);
  const int64_t L = LANES<T>, width = panel_width<T>(CO), panels = up(CO, width);
  // A run of channels that are many would not keep its order of additions.
  const int64_t most = CI > DEPTH ? 1 : std::clamp<int64_t>(NEAR / (CI * width), 1, RUN);
  const int64_t blocks = up(side.sites, BLOCK), stride = G * CI;
  const Tensor weights = packed<T>(taps);
  const T* w = weights.const_data_ptr<T>();
  const int64_t tasks = panels * G * blocks, ahead = at::get_num_threads() * BLOCK;
  share(tasks, [&](auto claim) {
    std::vector<T> sums(BLOCK * width), start(width, T(0));
    std::array<const T*, RUN * BLOCK> rows;
    std::array<const T*, RUN> tap;
    std::array<T*, BLOCK> home, sum, some;
    Block<T> block(side);
    Soon<T> soon;
    for (int64_t j; (j = claim()) < tasks;) {
      const int64_t m0 = j % blocks * BLOCK, sites = std::min(BLOCK, side.sites - m0);
      const int64_t g = j / blocks % G, panel = j / blocks / G;
      const int64_t c0 = panel * width, channels = std::min(width, CO - c0);
      // Sums of whole vectors stand where they belong; others would be written beyond their row.
      const bool whole = channels % L == 0;
      for (int64_t m = 0; m < sites; ++m)
        home[m] = y + side.order[m0 + m] * G * CO + g * CO + c0;
      for (int64_t m = 0; m < sites; ++m) sum[m] = whole ? home[m] : &sums[m * width];
      if (bias) std::memcpy(start.data(), bias + g * CO + c0, channels * sizeof(T));
      const T* const first = x + g * CI;
      soon.list(side, m0 + ahead, std::min(BLOCK, side.sites - m0 - ahead), first, stride,
                std::min(CI, DEPTH));
      const auto weight = [&](int64_t s) {
        return w + ((panel * G + g) * K + side.kind[s]) * CI * width;
      };
      const auto add = [&](const T* const* from, const T* begin, T* const* into, int64_t edges,
                           int64_t slots) {
        for (int64_t k = 0; k < CI; k += DEPTH)
          multiply(from, BLOCK, k ? nullptr : begin, into, edges, tap.data(), width,
                   up(channels, L), slots, k, std::min(DEPTH, CI - k), &soon);
      };
      if (block.read(m0, sites, first, stride, up(8, up(channels, L)))) {
        // Slots of sites that hear through the same ones are added up in a run, sums in registers.
        for (int64_t n = 0; n < block.kinds; ++n) {
          const int64_t count = block.count[n];
          const int* const who = block.who[n].data();
          const bool every = count == sites;
          for (int64_t i = 0; i < count && !every; ++i) some[i] = sum[who[i]];
          const T* begin = start.data();
          const T* const* from = rows.data();
          int64_t run = 0;
          const auto end = [&] {
            add(from, begin, every ? sum.data() : some.data(), count, run);
            begin = nullptr, run = 0;
          };
          for (int64_t s = 0; s < side.slots; ++s) {
            if (block.kind[n] >> s % Block<T>::BITS & 1) continue;
            if (run == most) end();
            const T* const* const heard = &block.row[s * BLOCK];
            if (block.kind[n] == 0 && every) {
              if (run == 0) from = heard;
            } else {
              for (int64_t i = 0; i < count; ++i) rows[run * BLOCK + i] = heard[every ? i : who[i]];
            }
            tap[run++] = weight(s);
          }
          if (run || begin) end();
        }
      } else {
        for (int64_t m = 0; m < sites; ++m)
          std::memcpy(sum[m], start.data(), channels * sizeof(T));
        for (int64_t s = 0; s < side.slots; ++s) {
          const T* const* const heard = &block.row[s * BLOCK];
          int64_t edges = 0;
          for (int64_t m = 0; m < sites; ++m) {
            rows[edges] = heard[m];
            some[edges] = sum[m];
            edges += heard[m] >= first;
          }
          tap[0] = weight(s);
          if (edges) add(rows.data(), nullptr, some.data(), edges, 1);
        }
      }
      if (whole) continue;
      for (int64_t m = 0; m < sites; ++m)
        std::memcpy(home[m], sum[m], channels * sizeof(T));
    }
  });
}

// Depthwise: y[p, c] = b[c] + sum over slots of x[q, c] * w[kind[s], c]
constexpr int BESIDE = 8;  // sites that read a weight together

template <class T, int V>
inline void send_lanes(const T* const* rows, const int64_t* kinds, int64_t slots, const T* w,
                       const T* bias, int64_t channels, int64_t c, T* const* to, int64_t sites) {
  constexpr int64_t L = LANES<T>;
  Vec<T> s[BESIDE][V];
#pragma GCC unroll 8
  for (int r = 0; r < BESIDE; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) s[r][v] = bias ? load(bias + c + v * L) : Vec<T>{};
  for (int64_t i = 0; i < slots; ++i) {
    const T* at = w + kinds[i] * channels + c;
    Vec<T> f[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) f[v] = load(at + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < BESIDE; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) s[r][v] += load(rows[i * BESIDE + r] + c + v * L) * f[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < BESIDE; ++r)
    if (r < sites)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(to[r] + c + v * L, s[r][v]);
}

// What the sites of a block hear, BESIDE sites at a time.
template <class T>
struct Heard {
  std::vector<const T*> rows;  // slot by slot, `none` where one of the sites hears nothing
  std::vector<int64_t> slots;  // those that some of them hear
  std::array<int64_t, BLOCK / BESIDE> count{};
  const int64_t most;

  explicit Heard(int64_t slots_)
      : rows((slots_ + 1) * BLOCK), slots((slots_ + 1) * BLOCK / BESIDE), most(slots_) {}

  const T* const* rows_of(int64_t group) const { return &rows[group * (most + 1) * BESIDE]; }
  int64_t* slots_of(int64_t group) { return &slots[group * (most + 1)]; }

  // Put what `names` has for each slot in its place.
  void name(int64_t groups, const std::vector<int64_t>& names) {
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t i = 0; i < count[g]; ++i) slots_of(g)[i] = names[slots_of(g)[i]];
  }

  // List `sites` sites from m on and return how many groups they are. Without a branch but for the
  // loops: whether a lone pixel hears another cannot be foretold.
  int64_t list(const Side& side, int64_t m, int64_t sites, const T* x, int64_t channels,
               const T* none) {
    const int64_t groups = up(sites, BESIDE), bytes = channels * sizeof(T);
    const int64_t first = reinterpret_cast<int64_t>(x), nobody = reinterpret_cast<int64_t>(none);
    for (int64_t g = 0; g < groups; ++g) {
      std::array<int64_t, BESIDE> base, row, gone;
      for (int64_t r = 0; r < BESIDE; ++r) {
        const int64_t site = g * BESIDE + r;
        base[r] = side.base[m + std::min(site, sites - 1)];
        gone[r] = site < sites ? 0 : -1;
      }
      int64_t n = 0;
      for (int64_t s = 0; s < most; ++s) {
        const int* at = side.grid + side.offset[s];
        int64_t all = -1;  // stays negative while no row is found
        for (int64_t r = 0; r < BESIDE; ++r) row[r] = at[base[r]] | gone[r];
        for (int64_t r = 0; r < BESIDE; ++r) all &= row[r];
        const T** to = &rows[(g * (most + 1) + n) * BESIDE];
        for (int64_t r = 0; r < BESIDE; ++r) {
          const int64_t absent = row[r] >> 63;  // all ones, or zeros
          const int64_t place = (nobody & absent) | ((first + row[r] * bytes) & ~absent);
          to[r] = reinterpret_cast<const T*>(place);
        }
        slots[g * (most + 1) + n] = s;
        n += all >= 0;
      }
      count[g] = n;
    }
    return groups;
  }
};

template <class T>
void send_depthwise(const T* x, const Tensor& taps, const T* bias, const Side& side, T* y) {
  constexpr int64_t L = LANES<T>;
  const int64_t C = taps.size(1);
  const Tensor weights = taps.contiguous();
  const T* w = weights.const_data_ptr<T>();
  const std::vector<T> none(C, T(0));
  const int64_t tasks = up(side.sites, BLOCK);
  share(tasks, [&](auto claim) {
    Heard<T> heard(side.slots);
    std::array<T*, BLOCK> to{};
    for (int64_t j; (j = claim()) < tasks;) {
      const int64_t m = j * BLOCK, sites = std::min(BLOCK, side.sites - m);
      const int64_t groups = heard.list(side, m, sites, x, C, none.data());
      heard.name(groups, side.kind);
      for (int64_t r = 0; r < sites; ++r) to[r] = y + side.order[m + r] * C;
      // Few channels of all sites of the block: their rows and weights stay in the nearest cache.
      int64_t c = 0;
      const auto lanes = [&](auto v) {
        for (int64_t g = 0; g < groups; ++g)
          send_lanes<T, v>(heard.rows_of(g), heard.slots_of(g), heard.count[g], w, bias, C, c,
                           &to[g * BESIDE], sites - g * BESIDE);
      };
      for (; c + 2 * L <= C; c += 2 * L) lanes(std::integral_constant<int, 2>());
      for (; c + L <= C; c += L) lanes(std::integral_constant<int, 1>());
      for (; c < C; ++c)
        for (int64_t r = 0; r < sites; ++r) {
          const int64_t g = r / BESIDE;
          const T* const* rows = heard.rows_of(g);
          T sum = bias ? bias[c] : T(0);
          for (int64_t i = 0; i < heard.count[g]; ++i)
            sum += rows[i * BESIDE + r % BESIDE][c] * w[heard.slots_of(g)[i] * C + c];
          to[r][c] = sum;
        }
    }
  });
}

// -- correlate -----------------------------------------------------------------------------------

// Parts of the sites that are added up one after the other, and the sites of each: at most so many
// parts, and no fewer sites in one.
std::array<int64_t, 2> parts(int64_t sites, int64_t weights, int64_t most, int64_t fewest) {
  most = std::clamp<int64_t>(ELEMENTS / std::max<int64_t>(1, weights), 1, most);
  const int64_t count = std::clamp<int64_t>(up(sites, fewest), 1, most);
  const int64_t chunk = up(up(sites, count), BLOCK) * BLOCK;
  return {up(sites, chunk), chunk};
}

// lister() gives a thread its own list(m, sites, slot, group, row, head), which writes down the rows
// and the heads of the edges that `sites` sites from m on hear, and returns how many they are. Slot s
// adds up tap number(s) of `taps`; a tap without a slot is 0.
template <class T, class Number, class Lister>
Tensor correlated(const Tensor& x, const Tensor& g, int64_t sites, int64_t slots, int64_t taps,
                  int64_t groups, Number number, Lister lister) {
  const int64_t K = taps, G = groups, CI = x.size(1) / G, CO = g.size(1) / G;
  const int64_t L = LANES<T>, padded = up(CO, L) * L, width = PANEL * L;
  const auto [count, chunk] = parts(sites, K * G * CI * padded, 8, PART);
  Tensor found = at::zeros({count, K, G, CI, padded}, x.options());
  T* to = found.mutable_data_ptr<T>();
  const int64_t tasks = count * slots * G;
  share(tasks, [&, chunk = chunk](auto claim) {
    std::array<const T*, HEADS> row, head, at_panel;
    std::vector<T> whole(padded == CO ? 0 : HEADS * padded, T(0));
    auto list = lister();
    for (int64_t j; (j = claim()) < tasks;) {
      const int64_t gr = j % G, s = j / G % slots, part = j / G / slots, first = part * chunk;
      const int64_t last = std::min(sites, first + chunk);
      T* sums = to + ((part * K + number(s)) * G + gr) * CI * padded;
      for (int64_t m0 = first; m0 < last; m0 += HEADS) {
        const int64_t some = std::min(HEADS, last - m0);
        const int64_t edges = list(m0, some, s, gr, row.data(), head.data());
        if (edges == 0) continue;
        if (padded != CO)  // whole vectors would be read beyond the row
          for (int64_t e = 0; e < edges; ++e) {
            std::memcpy(&whole[e * padded], head[e], CO * sizeof(T));
            head[e] = &whole[e * padded];
          }
        for (int64_t c = 0; c < padded; c += width) {
          for (int64_t e = 0; e < edges; ++e) at_panel[e] = head[e] + c;
          by_width(std::min<int64_t>(PANEL, (padded - c) / L), [&](auto v) {
            outer<T, v>(row.data(), at_panel.data(), edges, CI, sums + c, padded);
          });
        }
      }
    }
  });
  return found.sum(0).narrow(3, 0, CO).contiguous();
}

template <class T>
Tensor correlate_matrices(const Tensor& x, const Tensor& g, const Side& side, int64_t taps,
                          int64_t groups) {
  const int64_t reads = x.size(1), writes = g.size(1), CI = reads / groups, CO = writes / groups;
  const T *from = x.const_data_ptr<T>(), *heads = g.const_data_ptr<T>();
  const auto number = [&](int64_t s) { return side.number[s]; };
  return correlated<T>(x, g, side.sites, side.slots, taps, groups, number, [&] {
    return [&](int64_t m0, int64_t sites, int64_t s, int64_t gr, const T** row, const T** head) {
      const T* const first = from + gr * CI;
      Longs any{};
      for (int64_t e = 0; e < sites; e += EIGHT) {
        Longs heard;
        Eight(side, m0 + e, sites - e).hear(s, heard);
        places<T>(heard, first, reads * sizeof(T), row + e);
        any |= heard;
      }
      for (int64_t m = 0; m < sites; ++m)
        head[m] = heads + side.order[m0 + m] * writes + gr * CO;
      int64_t all = 0;
      for (int64_t k = 0; k < EIGHT; ++k) all |= any[k];
      if (all >= 0) return sites;
      int64_t edges = 0;
      for (int64_t m = 0; m < sites; ++m) {
        const T* const at = row[m];
        row[edges] = at, head[edges] = head[m];
        edges += at >= first;
      }
      return edges;
    };
  });
}

template <class T, int V>
inline void correlate_lanes(const T* const* rows, const int64_t* slots, int64_t count,
                            const T* const* heads, int64_t channels, int64_t c, T* sums) {
  constexpr int64_t L = LANES<T>;
  Vec<T> g[BESIDE][V];
#pragma GCC unroll 8
  for (int r = 0; r < BESIDE; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) g[r][v] = load(heads[r] + c + v * L);
  for (int64_t i = 0; i < count; ++i) {
    T* at = sums + slots[i] * channels + c;
    Vec<T> s[V], t[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) s[v] = load(at + v * L), t[v] = Vec<T>{};
#pragma GCC unroll 8
    for (int r = 0; r < BESIDE; r += 2)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        s[v] += load(rows[i * BESIDE + r] + c + v * L) * g[r][v];
        t[v] += load(rows[i * BESIDE + r + 1] + c + v * L) * g[r + 1][v];
      }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(at + v * L, s[v] + t[v]);
  }
}

template <class T>
Tensor correlate_depthwise(const Tensor& x, const Tensor& g, const Side& side, int64_t K) {
  constexpr int64_t L = LANES<T>;
  const int64_t C = x.size(1);
  const auto [count, chunk] = parts(side.sites, K * C, 64, PART / 4);
  Tensor found = at::zeros({count, K, C, 1, 1}, x.options());
  const T *from = x.const_data_ptr<T>(), *heads = g.const_data_ptr<T>();
  T* to = found.mutable_data_ptr<T>();
  const std::vector<T> none(C, T(0));
  share(count, [&, count = count, chunk = chunk](auto claim) {
    Heard<T> heard(side.slots);
    std::array<const T*, BLOCK> head;
    for (int64_t j; (j = claim()) < count;) {
      T* sums = to + j * K * C;
      const int64_t last = std::min(side.sites, (j + 1) * chunk);
      for (int64_t m = j * chunk; m < last; m += BLOCK) {
        const int64_t sites = std::min(BLOCK, last - m);
        const int64_t groups = heard.list(side, m, sites, from, C, none.data());
        heard.name(groups, side.number);
        for (int64_t r = 0; r < BLOCK; ++r)
          head[r] = r < sites ? heads + side.order[m + r] * C : none.data();
        int64_t c = 0;
        const auto lanes = [&](auto v) {
          for (int64_t g = 0; g < groups; ++g)
            correlate_lanes<T, v>(heard.rows_of(g), heard.slots_of(g), heard.count[g],
                                  &head[g * BESIDE], C, c, sums);
        };
        for (; c + 2 * L <= C; c += 2 * L) lanes(std::integral_constant<int, 2>());
        for (; c + L <= C; c += L) lanes(std::integral_constant<int, 1>());
        for (; c < C; ++c)
          for (int64_t r = 0; r < sites; ++r) {
            const int64_t g = r / BESIDE;
            const T* const* rows = heard.rows_of(g);
            for (int64_t i = 0; i < heard.count[g]; ++i)
              sums[heard.slots_of(g)[i] * C + c] += rows[i * BESIDE + r % BESIDE][c] * head[r][c];
          }
      }
    }
  });
  return found.sum(0);
}

// -- Bags ----------------------------------------------------------------------------------------

// One direction of edges with weights: what site p hears through tap t is bag p * taps + t.
template <class T>
struct Bags {
  const int *rows, *ptr;
  const T* weight;
  int64_t sites, taps;

  Bags(const Tensor& rows_, const Tensor& ptr_, const Tensor& weight_, int64_t taps_)
      : rows(rows_.const_data_ptr<int>()), ptr(ptr_.const_data_ptr<int>()),
        weight(weight_.const_data_ptr<T>()), sites((ptr_.numel() - 1) / taps_), taps(taps_) {}
};

// to[c] = sum over i < N of w[i] * x[rows[i]][c], on top of what is there if `more`
template <class T, int N>
inline void blend_some(const T* x, const int* rows, int64_t stride, const T* w, int64_t channels,
                       bool more, T* to) {
  constexpr int64_t L = LANES<T>;
  const T* at[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) at[i] = x + rows[i] * stride;
  int64_t c = 0;
  for (; c + L <= channels; c += L) {
    Vec<T> s = more ? load(to + c) : Vec<T>{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) s += w[i] * load(at[i] + c);
    store(to + c, s);
  }
  for (; c < channels; ++c) {
    T s = more ? to[c] : T(0);
    for (int i = 0; i < N; ++i) s += w[i] * at[i][c];
    to[c] = s;
  }
}

template <class T>
inline void blend(const T* x, const int* rows, int64_t count, int64_t stride, const T* w,
                  int64_t channels, T* to) {
  for (int64_t i = 0; i < count; i += 4) {
    const bool more = i > 0;
    switch (count - i) {
      case 1: blend_some<T, 1>(x, rows + i, stride, w + i, channels, more, to); break;
      case 2: blend_some<T, 2>(x, rows + i, stride, w + i, channels, more, to); break;
      case 3: blend_some<T, 3>(x, rows + i, stride, w + i, channels, more, to); break;
      default: blend_some<T, 4>(x, rows + i, stride, w + i, channels, more, to);
    }
  }
}

// Add up what `sites` sites from m on hear through a tap, of `channels` channels from x on. Return
// how many hear something: who[e] they are, and where their sums stand, row[e]; a lone row of
// weight one stands where it is.
template <class T>
int64_t heard_in_bags(const Bags<T>& side, int64_t m, int64_t sites, int64_t tap, const T* x,
                      int64_t stride, int64_t channels, T* room, const T** row, int64_t* who) {
  int64_t edges = 0;
  for (int64_t r = 0; r < sites; ++r) {
    const int* const bag = side.ptr + (m + r) * side.taps + tap;
    const int64_t first = bag[0], count = bag[1] - first;
    if (count == 0) continue;
    const int* const rows = side.rows + first;
    if (count == 1 && side.weight[first] == T(1)) {
      row[edges] = x + rows[0] * stride;
    } else {
      T* const to = room + r * channels;
      blend(x, rows, count, stride, side.weight + first, channels, to);
      row[edges] = to;
    }
    who[edges++] = r;
  }
  return edges;
}

template <class T>
void send_bags_of(const T* x, const Tensor& taps, const T* bias, const Bags<T>& side, T* y) {
  const int64_t K = taps.size(0), G = taps.size(1), CI = taps.size(2), CO = taps.size(3);
  const int64_t L = LANES<T>, width = panel_width<T>(CO), panels = up(CO, width);
  const int64_t tasks = up(side.sites, BLOCK), writes = G * CO;
  const Tensor weights = packed<T>(taps);
  const T* w = weights.const_data_ptr<T>();
  const bool whole = CO % L == 0;
  share(tasks, [&](auto claim) {
    std::vector<T> sums(whole ? 0 : G * panels * BLOCK * width), room(BLOCK * std::min(CI, DEPTH));
    std::array<const T*, BLOCK> row;
    std::array<int64_t, BLOCK> who;
    std::array<T*, BLOCK> into;
    for (int64_t j; (j = claim()) < tasks;) {
      const int64_t m0 = j * BLOCK, sites = std::min(BLOCK, side.sites - m0);
      T* const home = y + m0 * writes;
      const auto sum = [&](int64_t m, int64_t g, int64_t panel) {
        if (whole) return home + m * writes + g * CO + panel * width;
        return &sums[((g * panels + panel) * BLOCK + m) * width];
      };
      const auto each = [&](auto f) {
        for (int64_t g = 0; g < G; ++g)
          for (int64_t p = 0; p < panels; ++p) {
            const int64_t c0 = g * CO + p * width, channels = std::min(width, CO - p * width);
            for (int64_t m = 0; m < sites; ++m) f(sum(m, g, p), m, c0, channels * sizeof(T));
          }
      };
      each([&](T* at, int64_t, int64_t c0, int64_t bytes) {
        if (bias) std::memcpy(at, bias + c0, bytes); else std::memset(at, 0, bytes);
      });
      for (int64_t t = 0; t < K; ++t)
        for (int64_t g = 0; g < G; ++g)
          for (int64_t k = 0; k < CI; k += DEPTH) {
            const int64_t depth = std::min(CI - k, DEPTH);
            const int64_t edges = heard_in_bags(side, m0, sites, t, x + g * CI + k, G * CI, depth,
                                                room.data(), row.data(), who.data());
            if (edges == 0) continue;
            for (int64_t p = 0; p < panels; ++p) {
              const T* const tap = w + (((p * G + g) * K + t) * CI + k) * width;
              for (int64_t e = 0; e < edges; ++e) into[e] = sum(who[e], g, p);
              multiply<T>(row.data(), 0, nullptr, into.data(), edges, &tap, width,
                       up(std::min(width, CO - p * width), L), 1, 0, depth);
            }
          }
      if (!whole)
        each([&](const T* at, int64_t m, int64_t c0, int64_t bytes) {
          std::memcpy(home + m * writes + c0, at, bytes);
        });
    }
  });
}

template <class T>
Tensor correlate_bags_of(const Tensor& x, const Tensor& g, const Bags<T>& side, int64_t groups) {
  const int64_t reads = x.size(1), writes = g.size(1), CI = reads / groups, CO = writes / groups;
  const T *from = x.const_data_ptr<T>(), *heads = g.const_data_ptr<T>();
  const auto number = [](int64_t t) { return t; };
  return correlated<T>(x, g, side.sites, side.taps, side.taps, groups, number, [&] {
    return [&, room = std::vector<T>(HEADS * CI), who = std::array<int64_t, HEADS>()](
               int64_t m0, int64_t sites, int64_t t, int64_t gr, const T** row,
               const T** head) mutable {
      const int64_t edges = heard_in_bags(side, m0, sites, t, from + gr * CI, reads, CI,
                                          room.data(), row, who.data());
      for (int64_t e = 0; e < edges; ++e) head[e] = heads + (m0 + who[e]) * writes + gr * CO;
      return edges;
    };
  });
}

// -- Operators -----------------------------------------------------------------------------------

// The kernels trust their lists, so each list is read through once before any kernel reads it.
void read_through(const Tensor& who, const Tensor& rows, const Tensor& taps, int64_t sources,
                  int64_t kinds) {
  const Side side(who, rows, taps);
  const int64_t cells = who.numel();
  const auto within = [](const int64_t* at, int64_t count, int64_t low, int64_t high) {
    for (int64_t i = 0; i < count; ++i)
      if (at[i] < low || at[i] >= high) return false;
    return true;
  };
  for (int64_t i = 0; i < cells; ++i)
    TORCH_CHECK_INDEX(side.grid[i] >= -1 && side.grid[i] < sources,
                      "convgraph: the rank grid names row ", side.grid[i], " of ", sources);
  TORCH_CHECK_INDEX(within(side.kind.data(), side.slots, 0, kinds),
                    "convgraph: slots name taps beyond ", kinds);
  // Without a source the kernels look nothing up.
  if (sources && side.sites && side.slots) {
    TORCH_CHECK_INDEX(within(side.base, side.sites, 0, cells) &&
                          within(side.offset.data(), side.slots, -cells, cells),
                      "convgraph: sites and slots point beyond a rank grid of ", cells, " cells");
    const auto [low, high] = std::minmax_element(side.base, side.base + side.sites);
    const auto [first, last] = std::minmax_element(side.offset.begin(), side.offset.end());
    TORCH_CHECK_INDEX(*low + *first >= 0 && *high + *last < cells,
                      "convgraph: sites hear beyond a rank grid of ", cells, " cells");
  }
  std::vector<bool> seen(side.sites, false);
  for (int64_t m = 0; m < side.sites; ++m) {
    TORCH_CHECK_INDEX(within(side.order + m, 1, 0, side.sites) && !seen[side.order[m]],
                      "convgraph: the order of ", side.sites, " sites is no permutation");
    seen[side.order[m]] = true;
  }
}

// The same of bags: `sources` rows, `count` bags, a weight an entry.
void read_bags(const Tensor& rows, const Tensor& ptr, const Tensor& weight, int64_t sources,
               int64_t count) {
  const int *row = rows.const_data_ptr<int>(), *at = ptr.const_data_ptr<int>();
  const int64_t entries = rows.numel();
  TORCH_CHECK_INDEX(ptr.numel() == count + 1 && weight.numel() == entries && at[0] == 0 &&
                        at[count] == entries && std::is_sorted(at, at + count + 1),
                    "convgraph: ", count, " bags do not share out ", entries, " entries");
  for (int64_t i = 0; i < entries; ++i)
    TORCH_CHECK_INDEX(row[i] >= 0 && row[i] < sources, "convgraph: a bag names row ", row[i],
                      " of ", sources);
}

// Which lists have been read through, as long as they live and nobody writes to them.
struct ReadOnce {
  using Read = void(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t);
  Read* const read_through;
  explicit ReadOnce(Read* read) : read_through(read) {}

  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl>;
  using Key = std::tuple<c10::TensorImpl*, c10::TensorImpl*, c10::TensorImpl*, int64_t, int64_t>;
  struct Entry {
    std::array<Weak, 3> held;  // an address is not given away while somebody holds it weakly
    std::array<int64_t, 3> version;
  };
  std::mutex turn;
  std::map<Key, Entry> known;

  void operator()(const Tensor& who, const Tensor& rows, const Tensor& taps, int64_t sources,
                  int64_t kinds) {
    const std::array<const Tensor*, 3> lists = {&who, &rows, &taps};
    for (const Tensor* list : lists)  // such tensors do not tell whether they were written to
      if (list->is_inference()) return read_through(who, rows, taps, sources, kinds);
    std::array<int64_t, 3> version;
    for (int i = 0; i < 3; ++i) version[i] = lists[i]->_version();
    const Key key{who.unsafeGetTensorImpl(), rows.unsafeGetTensorImpl(),
                  taps.unsafeGetTensorImpl(), sources, kinds};
    {
      const std::lock_guard<std::mutex> lock(turn);
      const auto found = known.find(key);
      if (found != known.end() && found->second.version == version) return;
    }
    read_through(who, rows, taps, sources, kinds);
    const std::lock_guard<std::mutex> lock(turn);
    if (known.size() >= 64)
      for (auto at = known.begin(); at != known.end();)
        at = at->second.held[0].expired() ? known.erase(at) : std::next(at);
    if (known.size() >= 4096) known.clear();
    known.insert_or_assign(key, Entry{{Weak(who.getIntrusivePtr()), Weak(rows.getIntrusivePtr()),
                                       Weak(taps.getIntrusivePtr())}, version});
  }
};

void check(const Tensor& x, const Tensor& who, const Tensor& rows, const Tensor& taps,
           int64_t sources, int64_t kinds) {
  static ReadOnce& read_once = *new ReadOnce(read_through);  // torch may be gone when the process ends
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
              "convgraph: the C++ kernels compute in float32 and float64, not in ",
              x.scalar_type());
  TORCH_CHECK(who.scalar_type() == at::kInt && rows.scalar_type() == at::kLong &&
                  taps.scalar_type() == at::kLong && who.dim() == 1 && rows.dim() == 2 &&
                  taps.dim() == 2 && rows.size(0) == 2 && taps.size(0) == 2,
              "convgraph: expected a rank grid of int32, sites (2, P) and slots (2, S) of int64");
  TORCH_CHECK(who.is_contiguous() && rows.is_contiguous() && taps.is_contiguous() &&
                  who.device().is_cpu() && rows.device().is_cpu() && taps.device().is_cpu(),
              "convgraph: expected contiguous lists on the CPU");
  read_once(who, rows, taps, sources, kinds);
}

Tensor send(const Tensor& x_, const Tensor& taps, const std::optional<Tensor>& bias_,
            const Tensor& who, const Tensor& rows, const Tensor& slots, const Tensor& back_who,
            const Tensor& back_rows, const Tensor& back_slots, int64_t backwards) {
  TORCH_CHECK(rows.dim() == 2 && back_rows.dim() == 2 && slots.dim() == 2,
              "convgraph::send: expected sites (2, P) and slots (2, S)");
  check(x_, who, rows, slots, back_rows.size(1), slots.size(1));
  check(x_, back_who, back_rows, back_slots, rows.size(1), slots.size(1));
  TORCH_CHECK(x_.dim() == 2 && taps.dim() == 4 && taps.scalar_type() == x_.scalar_type() &&
                  x_.size(0) == (backwards ? rows : back_rows).size(1) &&
                  x_.size(1) == taps.size(1) * taps.size(2) && taps.size(0) == slots.size(1) &&
                  (!bias_ || bias_->scalar_type() == x_.scalar_type()) && (!bias_ || bias_->numel() == taps.size(1) * taps.size(3)),
              "convgraph::send: x, taps, bias and lists do not fit together");
  const Side side = backwards ? Side(back_who, back_rows, back_slots) : Side(who, rows, slots);
  const Tensor x = x_.contiguous();
  std::optional<Tensor> bias;
  if (bias_) bias = bias_->contiguous();
  Tensor y = at::empty({side.sites, taps.size(1) * taps.size(3)}, x.options());
  if (y.numel() == 0) return y;
  if (x.numel() == 0) return bias ? y.copy_(bias->expand_as(y)) : y.zero_();
  const bool depthwise = taps.size(2) == 1 && taps.size(3) == 1;
  auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* b = bias ? bias->const_data_ptr<T>() : nullptr;
    auto kernel = depthwise ? send_depthwise<T> : send_matrices<T>;
    kernel(x.const_data_ptr<T>(), taps, b, side, y.mutable_data_ptr<T>());
  };
  if (x.scalar_type() == at::kFloat) run(0.0f); else run(0.0);
  return y;
}

Tensor correlate(const Tensor& x_, const Tensor& g_, const Tensor& who, const Tensor& rows,
                 const Tensor& slots, const Tensor&, const Tensor& back_rows, const Tensor&,
                 int64_t groups) {
  TORCH_CHECK(rows.dim() == 2 && back_rows.dim() == 2 && slots.dim() == 2,
              "convgraph::correlate: expected sites (2, P) and slots (2, S)");
  check(x_, who, rows, slots, back_rows.size(1), slots.size(1));
  TORCH_CHECK(x_.dim() == 2 && g_.dim() == 2 && g_.scalar_type() == x_.scalar_type() &&
                  x_.size(0) == back_rows.size(1) && g_.size(0) == rows.size(1) && groups > 0 &&
                  x_.size(1) % groups == 0 && g_.size(1) % groups == 0,
              "convgraph::correlate: x, g and lists do not fit together");
  const Side side(who, rows, slots);
  const Tensor x = x_.contiguous(), g = g_.contiguous();
  const int64_t CI = x.size(1) / groups, CO = g.size(1) / groups, K = slots.size(1);
  if (side.sites == 0 || x.numel() == 0 || g.numel() == 0)
    return at::zeros({K, groups, CI, CO}, x.options());
  const bool depthwise = CI == 1 && CO == 1;
  if (x.scalar_type() == at::kFloat)
    return depthwise ? correlate_depthwise<float>(x, g, side, K)
                     : correlate_matrices<float>(x, g, side, K, groups);
  return depthwise ? correlate_depthwise<double>(x, g, side, K)
                   : correlate_matrices<double>(x, g, side, K, groups);
}

// What the lists of one direction say of `sites` sites, `taps` taps and `sources` rows is true.
void check_bags(const Tensor& x, const Tensor& rows, const Tensor& ptr, const Tensor& weight,
                int64_t sites, int64_t taps, int64_t sources) {
  static ReadOnce& read_once = *new ReadOnce(read_bags);  // as above
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
              "convgraph: the C++ kernels compute in float32 and float64, not in ",
              x.scalar_type());
  TORCH_CHECK(rows.scalar_type() == at::kInt && ptr.scalar_type() == at::kInt &&
                  weight.scalar_type() == x.scalar_type() && rows.dim() == 1 && ptr.dim() == 1 &&
                  weight.dim() == 1,
              "convgraph: expected rows (E,) and ptr (bags + 1,) of int32, and weights (E,) of the "
              "dtype of x");
  TORCH_CHECK(rows.is_contiguous() && ptr.is_contiguous() && weight.is_contiguous() &&
                  rows.device().is_cpu() && ptr.device().is_cpu() && weight.device().is_cpu(),
              "convgraph: expected contiguous lists on the CPU");
  TORCH_CHECK(ptr.numel() > 0, "convgraph: expected ptr (bags + 1,), got none");
  read_once(rows, ptr, weight, sources, sites * taps);
}

Tensor send_bags(const Tensor& x_, const Tensor& taps, const std::optional<Tensor>& bias_,
                 const Tensor& rows, const Tensor& ptr, const Tensor& weight,
                 const Tensor& back_rows, const Tensor& back_ptr, const Tensor& back_weight,
                 int64_t backwards) {
  TORCH_CHECK(taps.dim() == 4 && taps.size(0) > 0 && x_.dim() == 2,
              "convgraph::send_bags: expected x (N, C) and taps (K, G, C_in / G, C_out / G)");
  const int64_t K = taps.size(0);
  const int64_t sites = (ptr.numel() - 1) / K, sources = (back_ptr.numel() - 1) / K;
  check_bags(x_, rows, ptr, weight, sites, K, sources);
  check_bags(x_, back_rows, back_ptr, back_weight, sources, K, sites);
  TORCH_CHECK(taps.scalar_type() == x_.scalar_type() &&
                  x_.size(0) == (backwards ? sites : sources) &&
                  x_.size(1) == taps.size(1) * taps.size(2) &&
                  (!bias_ || bias_->scalar_type() == x_.scalar_type()) &&
                  (!bias_ || bias_->numel() == taps.size(1) * taps.size(3)),
              "convgraph::send_bags: x, taps, bias and lists do not fit together");
  const Tensor x = x_.contiguous();
  std::optional<Tensor> bias;
  if (bias_) bias = bias_->contiguous();
  Tensor y = at::empty({backwards ? sources : sites, taps.size(1) * taps.size(3)}, x.options());
  if (y.numel() == 0) return y;
  if (x.numel() == 0) return bias ? y.copy_(bias->expand_as(y)) : y.zero_();
  auto run = [&](auto zero) {
    using T = decltype(zero);
    const Bags<T> side = backwards ? Bags<T>(back_rows, back_ptr, back_weight, K)
                                   : Bags<T>(rows, ptr, weight, K);
    const T* b = bias ? bias->const_data_ptr<T>() : nullptr;
    send_bags_of<T>(x.const_data_ptr<T>(), taps, b, side, y.mutable_data_ptr<T>());
  };
  if (x.scalar_type() == at::kFloat) run(0.0f); else run(0.0);
  return y;
}

Tensor correlate_bags(const Tensor& x_, const Tensor& g_, const Tensor& rows, const Tensor& ptr,
                      const Tensor& weight, const Tensor&, const Tensor&, const Tensor&,
                      int64_t groups) {
  TORCH_CHECK(x_.dim() == 2 && g_.dim() == 2 && g_.size(0) > 0 && groups > 0,
              "convgraph::correlate_bags: expected x (N, C_in) and g (P, C_out) of some sites");
  const int64_t taps = (ptr.numel() - 1) / g_.size(0);
  TORCH_CHECK(taps > 0, "convgraph::correlate_bags: ", g_.size(0), " sites need a bag a tap");
  check_bags(x_, rows, ptr, weight, g_.size(0), taps, x_.size(0));
  TORCH_CHECK(g_.scalar_type() == x_.scalar_type() && x_.size(1) % groups == 0 &&
                  g_.size(1) % groups == 0,
              "convgraph::correlate_bags: x, g and groups do not fit together");
  const Tensor x = x_.contiguous(), g = g_.contiguous();
  if (x.numel() == 0 || g.numel() == 0)
    return at::zeros({taps, groups, x.size(1) / groups, g.size(1) / groups}, x.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    return correlate_bags_of<T>(x, g, Bags<T>(rows, ptr, weight, taps), groups);
  };
  return x.scalar_type() == at::kFloat ? run(0.0f) : run(0.0);
}

}  // namespace

TORCH_LIBRARY_IMPL(convgraph, CPU, m) {
  m.impl("send", &send);
  m.impl("correlate", &correlate);
  m.impl("send_bags", &send_bags);
  m.impl("correlate_bags", &correlate_bags);
}
