/*
 * About 300,000 rows, made by the server from the row's number alone: no clock and no randomness, so
 * every run has the same shop. md5 of a number stands in for chance.
 */

/** Rows that the write load may pick from. */
export type ShopSize = Readonly<
  Record<'customers' | 'products' | 'orders' | 'visits' | 'notes', number>
>;

export const SHOP_SIZE = {
  customers: 20_000,
  products: 3_000,
  orders: 60_000,
  visits: 20_000,
  notes: 800,
} as const satisfies ShopSize;

const { customers, products, orders, visits, notes } = SHOP_SIZE;

/** SQL for the id of customer `n` (1-based); shop-load.ts makes the same ones. */
export const customerIdSql = (n: string): string => `md5('customer ' || (${n}))::uuid`;

export const SHOP_DATA = `
INSERT INTO shop.category (parent_id, name)
SELECT nullif(i / 8, 0), 'Category ' || i FROM generate_series(1, 60) i;

INSERT INTO shop.product (sku, category_id, name, price, weight_kg, tags, sizes, attributes, description)
SELECT chr(65 + i % 26) || chr(65 + i / 26 % 26) || '-' || lpad(i::text, 6, '0'),
  1 + i % 60,
  (ARRAY['Chair','Desk','Lamp','Shelf','Sofa','Vase','Rug','Clock'])[1 + i % 8] || ' „' || md5(i::text)::char(5) || '“ ✓',
  5 + (i * 7919::bigint % 99500) / 100.0,
  CASE WHEN i % 11 > 0 THEN (i * 31 % 5000) / 97.0 END,
  CASE WHEN i % 5 > 0 THEN ARRAY['tag' || i % 17, 'colour:' || i % 9, 'quote"d, {brace}'] ELSE '{}' END,
  CASE WHEN i % 4 > 0 THEN ARRAY[i % 50, NULL, i % 7] END,
  jsonb_build_object('brand', 'B' || i % 40, 'rating', (i % 50) / 10.0, 'dims', jsonb_build_array(i % 90, i % 70, 1.50)),
  -- One in ten is long enough for TOAST, and md5 does not compress.
  (SELECT string_agg(md5(i || ':' || j), ' ') FROM generate_series(1, CASE WHEN i % 10 = 0 THEN 150 ELSE 3 END) j)
FROM generate_series(1, ${products}) i;

INSERT INTO crm.customer
SELECT ${customerIdSql('i')},
  'customer' || i || '@example.com',
  (ARRAY['Ada','Björn','Chloé','Dmitri','Eun-ji','Fatima','Gaël','李雷'])[1 + i % 8] || ' ' || initcap(md5(i::text)::char(6)),
  (ARRAY['new','active','active','active','blocked','gone']::crm.customer_status[])[1 + i % 6],
  CASE WHEN i % 9 > 0 THEN ROW('Street ' || i % 400, 'Town ' || i % 90, lpad((i % 99999)::text, 5, '0'), 'DE')::crm.address END,
  jsonb_build_object('newsletter', i % 2 = 0, 'theme', (ARRAY['dark','light'])[1 + i % 2], 'points', i % 1000),
  CASE WHEN i % 3 > 0 THEN date '1950-01-01' + i % 20000 END,
  timestamptz '2025-01-01 00:00Z' + i * interval '23 minutes 7.123456 seconds'
FROM generate_series(1, ${customers}) i;

INSERT INTO crm.note (customer_id, note_no, is_pinned, body)
SELECT ${customerIdSql('i * 7')}, 1, false, (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 300) j)
FROM generate_series(1, ${notes}) i;

INSERT INTO crm.visit (address, device, active, duration, fingerprint, flags)
SELECT ('10.' || i % 250 || '.' || i / 250 % 250 || '.' || i % 199)::inet,
  CASE WHEN i % 6 > 0 THEN ('08:00:2b:' || to_char(i % 90 + 10, 'FM00') || ':02:0' || i % 9)::macaddr END,
  tstzrange(timestamptz '2026-01-01 00:00Z' + i * interval '11 minutes', timestamptz '2026-01-01 00:00Z' + i * interval '13 minutes'),
  i * interval '1.000001 seconds', decode(md5(i::text), 'hex'), (i % 256)::bit(8)
FROM generate_series(1, ${visits}) i;

INSERT INTO shop.orders (placed_at, customer_id, status, total, "Comment")
SELECT timestamptz '2026-01-01 00:00Z' + (i * 3571::bigint % 525600) * interval '1 minute' + i * interval '1 microsecond',
  ${customerIdSql(`1 + i * 6151::bigint % ${customers}`)},
  (ARRAY['placed','paid','packed','shipped','delivered','delivered','delivered','returned']::shop.order_status[])[1 + i % 8],
  10 + (i * 104729::bigint % 900000) / 100.0,
  CASE WHEN i % 13 = 0 THEN E'please\\tring\\\\twice, ' || i WHEN i % 29 = 0 THEN '' END
FROM generate_series(1, ${orders}) i;

INSERT INTO shop.order_line
SELECT o.id, line_no, o.placed_at, 1 + (o.id * 17 + line_no * 911) % ${products}, 1 + (o.id + line_no) % 5, 5 + (o.id * line_no) % 200
FROM shop.orders o, generate_series(1, 1 + o.id % 3) line_no;

INSERT INTO shop.payment
SELECT md5('payment ' || o.id)::uuid, (ARRAY['card','card','wallet','voucher','transfer'])[1 + o.id % 5],
  o.id, o.total, (o.placed_at + interval '5 minutes') AT TIME ZONE 'UTC'
FROM shop.orders o WHERE o.status <> 'placed';

INSERT INTO stock.warehouse VALUES
  ('BER', 'Berlin', point(52.52, 13.405), '06:30'), ('OSL', 'Oslo', point(59.91, 10.75), '07:00'),
  ('LIS', 'Lisboa', point(38.72, -9.14), '08:15:30.5'), ('GDN', 'Gdańsk', point(54.35, 18.65), '05:45');

INSERT INTO stock.level (warehouse, product_id, quantity)
SELECT code, p.id, 200000 + (p.id * 37) % 500 FROM stock.warehouse, shop.product p;

INSERT INTO stock.movement (warehouse, product_id, change, ratio, reason)
SELECT (ARRAY['BER','OSL','LIS','GDN'])[1 + i % 4], 1 + i * 53 % ${products}, i % 40 - 20, i / 7.0::real,
  CASE WHEN i % 3 > 0 THEN 'count ' || i END
FROM generate_series(1, 10000) i;

INSERT INTO "Reporting"."Daily Sales"
SELECT (placed_at AT TIME ZONE 'UTC')::date, count(*), sum(total) FROM shop.orders GROUP BY 1;
`;
