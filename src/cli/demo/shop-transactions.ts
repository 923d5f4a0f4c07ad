import type { Session } from '#src/db/postgres/connection/session.ts';

import { customerIdSql, type ShopSize } from './shop-data.ts';

/** One connection of the shop's application and what it remembers. */
export type Buyer = {
  readonly session: Session;
  readonly random: () => number;
  /** A whole number from 0, below `bound`. */
  readonly pick: (bound: number) => number;
  readonly worker: number;
  /** Makes names that no other connection makes. */
  nextNumber: number;
  /** Orders placed here, to be changed and cancelled later. */
  readonly ownOrders: string[];
  readonly size: ShopSize;
};

type Outcome = 'committed' | 'rolledBack';
type Transaction = (buyer: Buyer) => Promise<Outcome>;

/** What the application does, and how often of a hundred times. */
const MIX: readonly (readonly [weight: number, transaction: Transaction])[] = [
  [26, placeOrder],
  [22, advanceOrder],
  [12, moveStock],
  [10, changePreferences],
  [7, registerCustomer],
  [5, recordVisit],
  [4, repriceProduct],
  [4, pinNote],
  [3, changeMethod],
  [3, cancelOrder],
  [2, abandonOrder],
  [1, renumberNote],
  [1, closeDay],
];
const WEIGHTS = MIX.reduce((sum, [weight]) => sum + weight, 0);
const OWN_ORDERS_MAX = 500;

export async function chooseTransaction(buyer: Buyer): Promise<Outcome> {
  let ticket = buyer.random() * WEIGHTS;
  for (const [weight, transaction] of MIX) {
    ticket -= weight;
    if (ticket < 0) return transaction(buyer);
  }
  return placeOrder(buyer);
}

const CUSTOMER = customerIdSql('$1::int');

/** Some minute of the year of the partitions. */
const someTime = (buyer: Buyer): string =>
  new Date(Date.UTC(2026, 0, 1) + buyer.pick(525_600) * 60_000).toISOString();

/** An order, its lines, its payment and the stock it takes: several statements, several tables. */
async function placeOrder(buyer: Buyer): Promise<Outcome> {
  const { session, pick, size } = buyer;
  const placedAt = someTime(buyer);
  await session.transaction(async () => {
    const id = await insertOrder(buyer, placedAt);
    // In one order everywhere, or two orders of the same things would deadlock.
    const wanted = new Set(Array.from({ length: 1 + pick(4) }, () => 1 + pick(size.products)));
    let line = 0;
    for (const product of [...wanted].toSorted((a, b) => a - b)) {
      line += 1;
      await session.execute(
        'INSERT INTO shop.order_line SELECT $1, $2, $3, id, 1, price FROM shop.product WHERE id = $4',
        [id, line, placedAt, product],
      );
      await session.execute(
        'UPDATE stock.level SET reserved = reserved + 1 WHERE warehouse = $1 AND product_id = $2',
        [pick(2) === 0 ? 'BER' : 'OSL', product],
      );
    }
    await session.execute(
      `INSERT INTO shop.payment SELECT md5('payment ' || id)::uuid, $2, id, total, timezone('UTC', placed_at)
       FROM shop.orders WHERE id = $1`,
      [id, ['card', 'wallet', 'transfer'][pick(3)] ?? 'card'],
    );
    buyer.ownOrders.push(id);
  });
  if (buyer.ownOrders.length > OWN_ORDERS_MAX) buyer.ownOrders.shift();
  return 'committed';
}

async function insertOrder(buyer: Buyer, placedAt: string): Promise<string> {
  const [order] = await buyer.session.query(
    `INSERT INTO shop.orders (placed_at, customer_id, total, "Comment")
     VALUES ($2, ${CUSTOMER}, $3, $4) RETURNING id`,
    [
      1 + buyer.pick(buyer.size.customers),
      placedAt,
      (buyer.pick(90_000) / 100).toFixed(2),
      buyer.pick(9) === 0 ? 'second floor\tplease \\ ring' : null,
    ],
  );
  return order?.['id'] ?? '';
}

/** Fires two triggers, one of which writes a row of its own. */
async function advanceOrder(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    `UPDATE shop.orders SET status = CASE status WHEN 'placed' THEN 'paid' WHEN 'paid' THEN 'packed'
       WHEN 'packed' THEN 'shipped' WHEN 'shipped' THEN 'delivered' ELSE 'placed' END::shop.order_status
     WHERE id = $1`,
    [1 + buyer.pick(buyer.size.orders)],
  );
  return 'committed';
}

async function moveStock(buyer: Buyer): Promise<Outcome> {
  const { session, pick, size } = buyer;
  const product = 1 + pick(size.products);
  await session.transaction(async () => {
    await session.execute(
      'UPDATE stock.level SET quantity = quantity + $1 WHERE warehouse = $2 AND product_id = $3',
      [pick(9) - 4, 'GDN', product],
    );
    await session.execute(
      'INSERT INTO stock.movement (warehouse, product_id, change, ratio) VALUES ($1, $2, $3, $4)',
      ['GDN', product, pick(9) - 4, pick(1000) / 7],
    );
  });
  return 'committed';
}

async function changePreferences(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    `UPDATE crm.customer SET preferences = preferences || jsonb_build_object('points', $2::int), status = 'active'
     WHERE id = ${CUSTOMER}`,
    [1 + buyer.pick(buyer.size.customers), buyer.pick(100_000)],
  );
  return 'committed';
}

async function registerCustomer(buyer: Buyer): Promise<Outcome> {
  buyer.nextNumber += 1;
  const name = `${buyer.worker}-${buyer.nextNumber}`;
  await buyer.session.execute(
    `INSERT INTO crm.customer (id, email, name, created_at)
     VALUES (md5('new ' || $1::text)::uuid, 'new' || $1::text || '@example.com', 'Zoë ' || $1::text, now())`,
    [name],
  );
  return 'committed';
}

/** One visit comes, an old one is forgotten. */
async function recordVisit(buyer: Buyer): Promise<Outcome> {
  const { session, pick, size } = buyer;
  await session.transaction(async () => {
    await session.execute(
      `INSERT INTO crm.visit (address, active, duration, fingerprint, flags)
       VALUES ('2001:db8::1', tstzrange(now(), NULL), $1::int * interval '1 millisecond', decode(md5($1::text), 'hex'), B'10100101')`,
      [pick(1_000_000)],
    );
    await session.execute('DELETE FROM crm.visit WHERE id = $1', [1 + pick(size.visits)]);
  });
  return 'committed';
}

/** Leaves the long description untouched: it travels as unchanged TOAST. */
async function repriceProduct(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    'UPDATE shop.product SET price = price + 0.01, tags = array_append(tags[1:3], $2) WHERE id = $1',
    [1 + buyer.pick(buyer.size.products), `sale ${buyer.pick(99)}`],
  );
  return 'committed';
}

async function pinNote(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    `UPDATE crm.note SET is_pinned = NOT is_pinned WHERE customer_id = ${CUSTOMER}`,
    [7 * (1 + buyer.pick(buyer.size.notes))],
  );
  return 'committed';
}

/** A row that moves to another partition. */
async function changeMethod(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    `UPDATE shop.payment SET method = CASE method WHEN 'card' THEN 'wallet' ELSE 'card' END
     WHERE order_id = $1`,
    [1 + buyer.pick(buyer.size.orders)],
  );
  return 'committed';
}

/** Deletes that cascade over a foreign key. */
async function cancelOrder(buyer: Buyer): Promise<Outcome> {
  const id = buyer.ownOrders.splice(buyer.pick(buyer.ownOrders.length), 1)[0];
  if (id === undefined) return placeOrder(buyer);
  await buyer.session.transaction(async () => {
    await buyer.session.execute('DELETE FROM shop.payment WHERE order_id = $1', [id]);
    await buyer.session.execute('DELETE FROM shop.orders WHERE id = $1', [id]);
  });
  return 'committed';
}

/** Work that production throws away must leave nothing on the shadow either. */
async function abandonOrder(buyer: Buyer): Promise<Outcome> {
  const { session } = buyer;
  await session.execute('BEGIN');
  await insertOrder(buyer, someTime(buyer));
  await session.execute('ROLLBACK');
  return 'rolledBack';
}

/** A change of the key, which keeps a long text that does not travel. */
async function renumberNote(buyer: Buyer): Promise<Outcome> {
  await buyer.session.execute(
    `UPDATE crm.note SET note_no = note_no + 1 WHERE customer_id = ${CUSTOMER}`,
    [7 * (1 + buyer.pick(buyer.size.notes))],
  );
  return 'committed';
}

/** Many rows in one transaction. */
async function closeDay(buyer: Buyer): Promise<Outcome> {
  const { session, pick } = buyer;
  const warehouse = 'LIS';
  await session.transaction(async () => {
    const from = pick(2900);
    await session.execute(
      'UPDATE stock.level SET quantity = quantity + 1 WHERE warehouse = $1 AND product_id BETWEEN $2 AND $3',
      [warehouse, from, from + 100],
    );
    await session.execute(
      `INSERT INTO "Reporting"."Daily Sales" VALUES ($1, 1, $2)
       ON CONFLICT ("Day") DO UPDATE SET "Orders" = "Daily Sales"."Orders" + 1, "Revenue" = excluded."Revenue"`,
      [someTime(buyer).slice(0, 10), (pick(1_000_000) / 100).toFixed(2)],
    );
  });
  return 'committed';
}
